# SPDX-License-Identifier: Apache-2.0
"""A wheel and an sdist hold all that runs, and run where nothing else is."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / 'tests' / 'support' / 'user_script.py'
FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'CHANGELOG.md', 'LICENSE')
SMALL = {
  'train.steps': 4,
  'train.evaluate_every': 4,
  'model.layers': 1,
  'data.moving_digits.train_videos': 32,
  'data.moving_digits.validation_videos': 4,
  'data.moving_digits.test_videos': 4,
}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The folder that becomes the wheel, and the sdist; without network, of a clean copy."""
  folder = tmp_path_factory.mktemp('build')
  tree = folder / 'tree'
  for name in ('vivit_jax', 'configs'):
    shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in FILES:
    shutil.copy(ROOT / name, tree)
  subprocess.run(
    [sys.executable, 'setup.py', 'build', f'--build-lib={folder}/wheel', 'sdist', f'-d{folder}'],
    cwd=tree,
    check=True,
    capture_output=True,
  )
  (sdist,) = folder.glob('*.tar.gz')
  return folder / 'wheel', sdist


def test_wheel_and_sdist_hold_all_that_runs(built):
  wheel, sdist = built
  names = {str(file.relative_to(wheel)) for file in wheel.rglob('*')}
  with tarfile.open(sdist) as archive:
    sources = {name.partition('/')[2] for name in archive.getnames()}
  for file in (ROOT / 'vivit_jax').rglob('*'):
    if file.is_file() and file.suffix != '.pyc':
      name = str(file.relative_to(ROOT))
      assert name in names, 'package_data of setup.py must name it'
      assert name in sources
  recipes = {file.name for file in (ROOT / 'configs').glob('*.py')}
  assert {f'vivit_jax/configs/{name}' for name in recipes} <= names
  assert {f'configs/{name}' for name in recipes} <= sources
  assert all(name.startswith('vivit_jax') for name in names)
  assert not any(name.startswith(('tests', 'experiments')) for name in sources)


def test_metadata_has_absolute_links(built):
  with tarfile.open(built[1]) as archive:
    (name,) = [name for name in archive.getnames() if name.count('/') == 1 and 'PKG-INFO' in name]
    about = email.message_from_bytes(archive.extractfile(name).read())
  assert {url.partition(',')[0] for url in about.get_all('Project-URL')} >= {'Documentation'}
  assert about['License'] == 'Apache-2.0'
  assert 'Typing :: Typed' in about.get_all('Classifier')
  links = re.findall(r'\]\(([^)]*)\)', about.get_payload())
  assert links
  assert all(link.startswith(('https://', '#')) for link in links), links


@pytest.mark.faults
def test_a_users_script_passes_mypy_strict(tmp_path):
  shutil.copy(SCRIPT, tmp_path)
  result = subprocess.run(
    [sys.executable, '-m', 'mypy', '--strict', '--disallow-any-expr', '--follow-imports=silent',
     '--ignore-missing-imports', SCRIPT.name],
    cwd=tmp_path, env={**os.environ, 'MYPYPATH': str(ROOT)}, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert result.returncode == 0, result.stdout


@pytest.mark.faults
@pytest.mark.parametrize('kind', ['wheel', 'sdist'])
def test_it_trains_in_a_fresh_environment(built, kind, tmp_path):
  # With the tree in PYTHONPATH, pip would take the package for installed.
  alone = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], env=alone, check=True)
  pip = [tmp_path / 'venv' / 'bin' / 'python', '-m', 'pip', '-q']
  package = built[1]
  if kind == 'wheel':
    subprocess.run([*pip, 'wheel', '--no-deps', '-w', tmp_path, package], env=alone, check=True)
    (package,) = tmp_path.glob('*.whl')
  subprocess.run([*pip, 'install', package], env=alone, check=True)
  empty = tmp_path / 'empty'
  empty.mkdir()
  alone |= {'HOME': str(tmp_path), 'XLA_FLAGS': ''}
  del alone['VIVIT_CACHE']
  for command in (
    [pip[0], SCRIPT, *(f'{name}={value}' for name, value in SMALL.items())],
    [pip[0].with_name('vivit'), 'inspect', '--config=kinetics400:B/16x2,factorised_encoder'],
  ):
    subprocess.run(command, cwd=empty, env=alone, check=True)
