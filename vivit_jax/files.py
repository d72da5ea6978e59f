# SPDX-License-Identifier: Apache-2.0
"""Files that other processes read or write too: atomic writes, locks and the cache folder."""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
  """Adds the path to errors of writing a file; by itself only an error of opening it has one."""
  try:
    yield
  except OSError as error:
    error.filename = str(path)
    raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
  """Yields a temporary path in the same folder; its file becomes `path` when the block ends.

  A reader, or a kill, sees the old file or the new one whole. If the block raises, the old file
  stays. Two processes that write at once leave the file of one of them.
  """
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with naming(path):
      temporary.unlink(missing_ok=True)  # of a killed process with the same id
      yield temporary
      temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def replace_file(path: Path, data: bytes) -> None:
  """Writes or replaces a file atomically."""
  with replaced(path) as temporary:
    temporary.write_bytes(data)


def write_json(path: Path, content: Any) -> None:
  """Writes or replaces a JSON file atomically; its folder is made if missing."""
  data = json.dumps(content, indent=1, sort_keys=True).encode() + b'\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, data)


class LockedError(Exception):
  """Another process holds a lock."""

  def __init__(self, owner: str):
    super().__init__(owner)
    self.owner = owner  # what that process wrote into the file


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[BinaryIO]:
  """Yields the open file `path` while this process holds an exclusive lock on it.

  The system releases the lock when the process ends, however that happens. A file system without
  locks is only warned of.

  Args:
    path: file that is made for the lock.
    what: name of what is locked, for messages on stderr.
    wait: whether to wait, and say so, if another process holds the lock.

  Raises:
    LockedError: another process holds the lock.
    OSError: the file cannot be opened.
  """
  with path.open('a+b', buffering=0) as handle:  # unbuffered: it is read while it is held
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      if not wait:
        handle.seek(0)
        raise LockedError(handle.read().decode().strip()) from None
      print(f'{what}: waiting for another process', file=sys.stderr, flush=True)
      fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
      print(
        f'vivit: warning: the file system of {what} has no locks ({error.strerror}): make sure '
        'that no other process writes there',
        file=sys.stderr,
        flush=True,
      )
    yield handle


def discard_output(descriptor: int) -> None:
  """Discards what is written to a file descriptor from now on, by C++ and at Python's exit too."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, descriptor)
  os.close(nowhere)


def cache_folder(name: str) -> Path:
  """Returns the folder `name` in $VIVIT_CACHE (default ~/.cache/vivit_jax); it may not exist."""
  return Path(os.environ.get('VIVIT_CACHE') or '~/.cache/vivit_jax').expanduser() / name
