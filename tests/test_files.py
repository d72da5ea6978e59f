# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, the file lock and the cache folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vivit_jax.files import LockedError, cache_folder, locked, replaced

HOLD = """
import sys, pathlib
from vivit_jax.files import locked
with locked(pathlib.Path(sys.argv[1]), 'x') as handle:
  handle.truncate(0)
  handle.write(b'owner 7')
  print('held', flush=True)
  sys.stdin.read()
"""
WAIT = """
import sys, pathlib
from vivit_jax.files import locked
with locked(pathlib.Path(sys.argv[1]), 'digits', wait=True):
  print('in', flush=True)
"""


def start(code, path):
  return subprocess.Popen(
    [sys.executable, '-c', code, path], text=True,
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip


def test_a_lock_is_refused_or_waited_for(tmp_path):
  path = tmp_path / 'lock'
  with start(HOLD, path) as owner:
    assert owner.stdout.readline() == 'held\n'
    with pytest.raises(LockedError) as error, locked(path, 'x'):
      pass
    assert error.value.owner == 'owner 7'
    with start(WAIT, path) as waiting:
      assert waiting.stderr.readline() == 'digits: waiting for another process\n'
      owner.send_signal(signal.SIGKILL)
      assert waiting.stdout.readline() == 'in\n'
  with locked(path, 'x'):
    pass


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'a.txt'
  (tmp_path / f'.a.txt.{os.getpid()}').write_text('left by a killed process')
  with replaced(path) as temporary:
    assert not temporary.exists()
    temporary.write_text('first')
    assert not path.exists()

  def break_off():
    with replaced(path) as temporary:
      temporary.write_text('second')
      raise OSError(5, 'broken')

  with pytest.raises(OSError, match=r'broken: .*a\.txt'):
    break_off()
  assert path.read_text() == 'first'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('value', [None, '', '~/place', '/place'])
def test_the_cache_folder_is_that_of_the_environment(value, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('VIVIT_CACHE', value or '')
  if value is None:
    monkeypatch.delenv('VIVIT_CACHE')
  folders = {'~/place': tmp_path / 'place', '/place': Path('/place')}
  assert cache_folder('remote') == folders.get(value, tmp_path / '.cache/vivit_jax') / 'remote'
