# SPDX-License-Identifier: Apache-2.0
"""Large blocks are kept from one step to the next, unless the user or the C library say no."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vivit_jax.cli import allocator

PROGRAM = """
import resource, numpy as np
{first}
def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones((32, 2**20))
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(max(faults() for _ in range(3)))
"""
PAGES = 32 * 8 * 2**20 // os.sysconf('SC_PAGE_SIZE')  # of the array
SET = 'from vivit_jax.cli import allocator; assert allocator.keep_large_blocks()'


def _faults(first):
  environment = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
  environment |= {'NUMPY_MADVISE_HUGEPAGE': '0'}  # whose pages are larger
  program = [sys.executable, '-c', PROGRAM.format(first=first)]
  return int(subprocess.run(program, env=environment, capture_output=True, check=True).stdout)


def test_a_block_that_comes_again_costs_no_page_faults():
  assert _faults('') > PAGES / 2
  assert _faults(SET) < PAGES / 100


@pytest.mark.parametrize(
  'name, value',
  [('GLIBC_TUNABLES', 'glibc.rtld.nns=4:glibc.malloc.arena_max=2'), ('MALLOC_ARENA_MAX', '2')],
)
def test_a_users_own_settings_stay(name, value, monkeypatch, capsys):
  monkeypatch.setenv(name, value)
  assert not allocator.keep_large_blocks(SimpleNamespace())
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'library, lacking',
  [
    (SimpleNamespace(), 'no mallopt:'),
    (SimpleNamespace(mallopt=lambda *_: 1), 'no mallopt:'),
    (
      SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda number, _: int(number != -8)),
      'no M_ARENA_MAX:',
    ),
  ],
)
def test_a_library_that_lacks_a_setting_is_named(library, lacking, monkeypatch, capsys):
  for name in [n for n in os.environ if n.startswith('MALLOC_')]:
    monkeypatch.delenv(name)
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  assert not allocator.keep_large_blocks(library)
  said = capsys.readouterr().err
  assert lacking in said
  assert said.count('\n') == 1
