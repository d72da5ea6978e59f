# SPDX-License-Identifier: Apache-2.0
"""Streams of batches compared, and the processes that decode them."""

import contextlib
import time
from pathlib import Path

import numpy as np


def assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert a['failures'] == b['failures']
    for name in ('video', 'label', 'mask', 'id'):
      np.testing.assert_array_equal(a[name], b[name])
      assert a[name].dtype == b[name].dtype


WORKER = b'vivit_jax.data import worker'  # in the command line of decoding processes


def worker_pids(parent: int) -> list[int]:
  """Returns the decoding processes that `parent` started."""
  found = []
  for entry in Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):
      started_by = int((entry / 'stat').read_text().rpartition(')')[2].split()[1])
      if started_by == parent and WORKER in (entry / 'cmdline').read_bytes():
        found.append(int(entry.name))
  return found


def gone(pids: list[int]) -> bool:
  """Returns whether all of the processes end within ten seconds."""
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    if not any(WORKER in _command(pid) for pid in pids):
      return True
    time.sleep(0.1)
  return False


def _command(pid: int) -> bytes:
  try:
    return Path(f'/proc/{pid}/cmdline').read_bytes()
  except OSError:
    return b''
