# SPDX-License-Identifier: Apache-2.0
"""Imports point down only, the model runs on JAX alone, and files stay small enough to read."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = 'vivit_jax'

# From the bottom up. A part may import what stands on an earlier line; parts on one line do not
# know each other.
LAYERS = (
  {'errors', 'files'},
  {'config'},
  {'checkpoint', 'distributed', 'evaluate', 'model'},
  {'data'},
  {'weights'},
  {'train'},
  {'inference', 'plan'},
  {'api', 'cli'},
)

# What has to run on any accelerator image, and what it may need besides the standard library.
CORE = (
  'config.parse',
  'config.pretraining',
  'config.schema',
  'config.surroundings',
  'distributed.mesh',
  'distributed.sharding',
  'errors',
  'model.attention',
  'model.choices',
  'model.cost',
  'model.decoder',
  'model.encoder',
  'model.kernels',
  'model.masking',
  'model.partitioning',
  'model.pooling',
  'model.positions',
  'model.product',
  'model.short',
  'model.splash',
  'model.stages',
  'model.tokenizer',
  'model.transformer',
  'model.vivit',
  'train.gradients',
  'train.losses',
  'train.masked',
  'train.mix',
  'train.optimizer',
  'train.state',
  'train.step',
)
CORE_NEEDS = {'jax', 'flax', 'optax', 'einops', 'jaxtyping', 'numpy'}
NOT_ON_EVERY_IMAGE = ('grain', 'av', 'ml_collections', 'tensorflow_datasets', 'cv2')


def module_name(path):
  """Returns the dotted name of a file of the package; a folder's `__init__` is the folder."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob('*.py'))}
SOURCES = sorted(
  path
  for folder in (PACKAGE, 'configs', 'experiments', 'tests')
  for path in (ROOT / folder).rglob('*.py')
)


def imports(module):
  """Returns the full names of all that a module imports, inside functions too."""
  found = set()
  for node in ast.walk(ast.parse(FILES[module].read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module} line {node.lineno}: a relative import; write it in full'
      for alias in node.names:
        submodule = f'{node.module}.{alias.name}'
        found.add(submodule if submodule in FILES else node.module)
  return found


IMPORTS = {module: imports(module) for module in FILES}
INSIDE = {module: found & FILES.keys() for module, found in IMPORTS.items()}
INSIDE[PACKAGE] = set()  # the package's functions import late what they call: see its test


def part(module):
  """Returns the file or folder directly in the package that a module belongs to; '' for it.

  `__main__` is the command under another name.
  """
  name = (module.split('.') + [''])[1]
  return 'cli' if name == '__main__' else name


def layer(module):
  for height, parts in enumerate(LAYERS):
    if part(module) in parts:
      return height
  raise AssertionError(f'{module} has no place: put {part(module)!r} into LAYERS of {__file__}')


@pytest.mark.parametrize('module', [module for module in FILES if part(module)])
def test_imports_point_down(module):
  for other in INSIDE[module]:
    if part(other) not in ('', part(module)):
      assert layer(other) < layer(module), f'{module} imports {other}, which does not lie below it'


def test_the_package_shows_its_folders():
  own = [path for path in (ROOT / PACKAGE).iterdir() if path.suffix]
  assert len(own) <= 5, f'{sorted(path.name for path in own)} stand beside the folders'
  folders = {part(module) for module in FILES if module.count('.') > 1}
  assert folders == set().union(*LAYERS) - {'errors', 'files'}
  assert len(LAYERS) == 8


def test_importing_the_package_imports_none_of_its_parts():
  for node in ast.parse(FILES[PACKAGE].read_text()).body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      names = [getattr(node, 'module', None)] + [alias.name for alias in node.names]
      assert not any(str(name).split('.')[0] == PACKAGE for name in names)


def test_no_import_cycle():
  done, path = set(), []

  def visit(module):
    assert module not in path, ' -> '.join([*path[path.index(module) :], module])
    if module not in done:
      path.append(module)
      for other in INSIDE[module] - {module}:
        visit(other)
      done.add(path.pop())

  for module in FILES:
    visit(module)
  assert done == FILES.keys()


def closure(modules):
  """Returns the modules and all of the package that they import, directly or not."""
  found, waiting = set(), list(modules)
  while waiting:
    module = waiting.pop()
    if module not in found:
      found.add(module)
      waiting.extend(INSIDE[module])
  return found


def test_model_and_step_name_jax_and_its_kin_alone():
  for module in closure(f'{PACKAGE}.{name}' for name in CORE):
    roots = {name.split('.')[0] for name in IMPORTS[module]}
    extra = roots - CORE_NEEDS - set(sys.stdlib_module_names) - {PACKAGE}
    assert not extra, f'{module} imports {sorted(extra)}'


def test_model_and_step_import_without_data_libraries():
  program = f"""
import sys

class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in {NOT_ON_EVERY_IMAGE}:
      raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Absent())
import importlib
for name in {CORE}:
  importlib.import_module(f'{PACKAGE}.{{name}}')
from vivit_jax.config.schema import Clip, Model
from vivit_jax.model.vivit import ViViT, abstract_params
print(len(abstract_params(ViViT(Model(layers=1), 5), Clip())))
"""
  result = subprocess.run(
    [sys.executable, '-c', program],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.strip() == '3'  # tokenizer, spacetime, head


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_says_what_it_is_for_and_stays_readable(path):
  text = path.read_text()
  assert text.startswith('# SPDX-License-Identifier: Apache-2.0\n"""')
  summary = ast.get_docstring(ast.parse(text)).splitlines()[0]
  assert summary.endswith('.')
  assert path.name != 'utils.py', 'name a file after what it is for'
  if PACKAGE in path.relative_to(ROOT).parts:
    lines = text.count('\n')
    assert lines <= 300, f'{lines} lines'
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1
        assert length <= 70, f'{node.name} has {length} lines'


def test_names_of_tests_are_short_and_name_one_test():
  names = []
  for path in (ROOT / 'tests').rglob('test_*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
        names.append(node.name)
  assert not [name for name in names if len(name) > 60]
  assert not {name for name in names if names.count(name) > 1}
