# SPDX-License-Identifier: Apache-2.0
"""Shared by checking and building: processes every video once, in replaceable worker processes.

A file that makes the decoder crash, hang or use too much memory only ends its worker process, and
is reported like any other bad file.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from vivit_jax.data.pool import Lost
from vivit_jax.data.worker import OUT_OF_MEMORY, signal_name
from vivit_jax.files import replace_file

TIMEOUT_SECONDS = 30.0  # for an empty file, plus one per megabyte: 5 times the decoding time
ENCODING = 10.0  # factor of the time limit if videos are re-encoded
SLOW, CRASHED, LARGE = 'too slow', 'decoder crashed', 'too large'

State = list[int | None]  # size in bytes and modification time in ns of a file; None = missing


def timeout_seconds(path: str, encodes: bool = False) -> float:
  """Returns the time limit in seconds for one video, after which its process counts as hung."""
  size = file_state(path)[0] or 0
  return (TIMEOUT_SECONDS + size / 1e6) * (ENCODING if encodes else 1.0)


def why_lost(lost: Lost, seconds: float) -> str:
  """Returns why a video counts as unreadable.

  Args:
    lost: outcome of its process.
    seconds: time limit of the task.
  """
  if lost.status is None:
    return f'{SLOW}: not finished in {seconds:.0f} s'
  if lost.status == OUT_OF_MEMORY:
    return f'{LARGE}: it needs more memory than the limit'
  if name := signal_name(lost.status):
    return f'{CRASHED}: it ended by {name}'
  return f'{CRASHED}: it ended with exit code {lost.status}'


def file_state(path: str) -> State:
  """Returns values that change if the file changes."""
  try:
    now = os.stat(path)
  except (OSError, ValueError):
    return [None, None]
  return [now.st_size, now.st_mtime_ns]


class Journal:
  """A log of finished work, one line per entry, written to disk immediately.

  Attributes:
    entries: entries of earlier runs; an incomplete last line is ignored.
  """

  def __init__(self, file: Path):
    """Opens the log and reads existing entries."""
    self._file = file
    content = file.read_bytes() if file.exists() else b''
    whole = content[: content.rfind(b'\n') + 1]
    if content != whole:  # truncate, so that the next line is not joined to an incomplete one
      replace_file(file, whole)
    self.entries: list[Any] = []
    for line in whole.splitlines():
      with contextlib.suppress(ValueError):  # lines joined by an earlier version
        self.entries.append(json.loads(line))

  def add(self, entry: Any) -> None:
    """Appends an entry."""
    with self._file.open('ab') as handle:
      handle.write(json.dumps(entry).encode() + b'\n')
