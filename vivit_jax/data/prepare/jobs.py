# SPDX-License-Identifier: Apache-2.0
"""What checking and building share: every video once, in processes that bad files may kill.

A file that makes its decoder crash, hang or take too much memory costs one process, and is named
like any other.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from vivit_jax.data.pool import Lost
from vivit_jax.data.worker import OUT_OF_MEMORY, signal_name
from vivit_jax.files import replace_file

TIMEOUT_SECONDS = 30.0  # for a file of nothing, one more per megabyte: 5 times what decoding takes
ENCODING = 10.0  # times as long may encoding take
SLOW, CRASHED, LARGE = 'too slow', 'decoder crashed', 'too large'

State = list[int | None]  # size in bytes and time of change in ns of a file; None = not there


def timeout_seconds(path: str, encodes: bool = False) -> float:
  """Returns how long a process may take for one video; then it hangs."""
  size = file_state(path)[0] or 0
  return (TIMEOUT_SECONDS + size / 1e6) * (ENCODING if encodes else 1.0)


def why_lost(lost: Lost, seconds: float) -> str:
  """Returns the reason for which a video counts as unreadable.

  Args:
    lost: what became of its process.
    seconds: that it was given.
  """
  if lost.status is None:
    return f'{SLOW}: not done in {seconds:.0f} s'
  if lost.status == OUT_OF_MEMORY:
    return f'{LARGE}: it takes more memory than the bound'
  if name := signal_name(lost.status):
    return f'{CRASHED}: it ended by {name}'
  return f'{CRASHED}: it ended with exit code {lost.status}'


def file_state(path: str) -> State:
  """Returns what tells whether a file has changed."""
  try:
    now = os.stat(path)
  except (OSError, ValueError):
    return [None, None]
  return [now.st_size, now.st_mtime_ns]


class Journal:
  """Finished work, a line each, on disk as soon as it is done.

  Attributes:
    entries: what earlier runs finished. A line at which a run was killed is left out.
  """

  def __init__(self, file: Path):
    """Reads what is there."""
    self._file = file
    content = file.read_bytes() if file.exists() else b''
    whole = content[: content.rfind(b'\n') + 1]
    if content != whole:  # or the next line would be glued to the one that was cut off
      replace_file(file, whole)
    self.entries: list[Any] = []
    for line in whole.splitlines():
      with contextlib.suppress(ValueError):  # glued together by an earlier version
        self.entries.append(json.loads(line))

  def add(self, entry: Any) -> None:
    """Appends one piece of finished work."""
    with self._file.open('ab') as handle:
      handle.write(json.dumps(entry).encode() + b'\n')
