# SPDX-License-Identifier: Apache-2.0
"""Commands that compute on CPUs start under the allocator, unless user or machine say no."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vivit_jax.distributed import allocator

PROGRAM = """
import os, sys
from pathlib import Path
from vivit_jax.distributed import allocator
allocator.find_library = lambda: Path(sys.argv[2])
allocator.ACCELERATORS = ()
allocator.use_fast_allocator(sys.argv[1:])
names = ('LD_PRELOAD', allocator.MARK, *allocator.SETTINGS)
print(sys.argv[2] in Path('/proc/self/maps').read_text(), {n: os.environ.get(n) for n in names})
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
  """No setting of an allocator, and no accelerator."""
  names = [n for n in os.environ if n.startswith(('MALLOC_', 'MIMALLOC_'))]
  for name in [*names, 'LD_PRELOAD', 'GLIBC_TUNABLES', 'JAX_PLATFORMS', allocator.MARK]:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(allocator, 'ACCELERATORS', ())


def _run(command, library):
  program = [sys.executable, '-c', PROGRAM, command, str(library)]
  return subprocess.run(program, capture_output=True, text=True, check=True).stdout


def test_a_command_starts_anew_and_its_children_without(tmp_path):
  (source, *_) = [*Path('/lib').rglob('libm.so.6'), *Path('/usr/lib').rglob('libm.so.6')]
  library = tmp_path / 'preloaded.so'  # any will do; its path tells it from the one in use
  shutil.copy(source, library)
  unset = dict.fromkeys(('LD_PRELOAD', allocator.MARK, *allocator.SETTINGS))
  assert _run('train', library) == f'True {unset}\n'
  assert _run('data', library) == f'False {unset}\n'


@pytest.mark.parametrize(
  'arguments, name, value, why',
  [
    (['data', 'index'], 'X', '', 'the command computes little'),
    ([], 'X', '', 'the command computes little'),
    (['train'], 'LD_PRELOAD', 'libtcmalloc_minimal.so.4', 'the user has chosen an allocator'),
    (['train'], 'GLIBC_TUNABLES', 'glibc.malloc.arena_max=2', 'the user has chosen an allocator'),
    (['train'], 'MALLOC_ARENA_MAX', '2', 'the user has chosen an allocator'),
    (['train'], 'X', '', None),
  ],
)
def test_what_keeps_its_allocator(arguments, name, value, why, monkeypatch):
  monkeypatch.setenv(name, value)
  assert allocator.reason(arguments, os.environ) == why


def test_an_accelerator_keeps_it_unless_cpus_are_asked_for(monkeypatch):
  monkeypatch.setattr(allocator, 'ACCELERATORS', ('/dev/nul*',))
  assert allocator.reason(['train'], {}) == 'the machine has an accelerator'
  assert allocator.reason(['train'], {'JAX_PLATFORMS': 'cpu'}) is None


def test_what_the_user_set_stays(monkeypatch):
  monkeypatch.setenv('LD_PRELOAD', '/other.so')
  monkeypatch.setenv('MIMALLOC_ARENA_RESERVE', '7')
  found = allocator.preloading(Path('/x/libmimalloc.so'))
  assert found['LD_PRELOAD'] == '/x/libmimalloc.so:/other.so'
  assert found['MIMALLOC_ARENA_RESERVE'] == '7'
  for name, value in found.items():
    monkeypatch.setenv(name, value)
  allocator.use_fast_allocator(['train'])
  assert os.environ['LD_PRELOAD'] == '/other.so'
  assert os.environ['MIMALLOC_ARENA_RESERVE'] == '7'
  assert not {allocator.MARK, 'MIMALLOC_ALLOW_THP'} & set(os.environ)


def test_a_library_that_is_not_there_is_said_by_training_alone(monkeypatch, capsys):
  monkeypatch.setattr(allocator, 'find_library', lambda: None)
  allocator.use_fast_allocator(['predict'])
  assert capsys.readouterr().err == ''
  allocator.use_fast_allocator(['train'])
  assert capsys.readouterr().err.count('pip install cmeel-mimalloc\n') == 1


def test_freed_blocks_are_kept_where_the_library_can(monkeypatch):
  calls = []
  library = SimpleNamespace(
    mi_collect=lambda force: calls.append(force.value),
    mi_option_set=lambda option, value: calls.append((option.value, value.value)),
  )
  monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda _: library)
  allocator.keep_freed_blocks()
  assert calls == [True, (15, -1)]
  monkeypatch.setenv('MIMALLOC_PURGE_DELAY', '7')
  allocator.keep_freed_blocks()
  assert len(calls) == 2
  monkeypatch.undo()
  allocator.keep_freed_blocks()  # of this process, whatever its allocator


# Page faults of writing to a block of 2.5 GiB, and again after it was freed and allocated anew.
LARGE = """
import resource
import numpy as np
from vivit_jax.distributed import allocator
allocator.keep_freed_blocks()
def faults():
  block = np.empty(5 * 2**29, np.uint8)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block[:: 2**24] = 1
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(allocator.find_library() is None, reason='needs pip install cmeel-mimalloc')
def test_blocks_of_gigabytes_are_kept_too():
  environment = allocator.preloading(allocator.find_library())
  program = [sys.executable, '-c', LARGE]
  done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
  first, second = map(int, done.stdout.split())
  assert first > 100
  assert second < 20
