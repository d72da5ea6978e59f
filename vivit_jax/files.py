# SPDX-License-Identifier: Apache-2.0
"""Files shared between processes: atomic writes, locks and the cache folder."""

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
  """Adds the path to OSErrors from writing a file; Python adds it only to errors from opening."""
  try:
    yield
  except OSError as error:
    error.filename = str(path)
    raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
  """Yields a temporary path in the same folder and renames it to `path` when the block ends.

  Readers see the complete old file or the complete new file, also if the process is killed. If the
  block raises, the old file is kept. If two processes write at once, one of their files is kept.
  """
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with naming(path):
      temporary.unlink(missing_ok=True)  # left by a killed process with the same id
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
  """Writes or replaces a JSON file atomically; creates its folder if missing."""
  data = json.dumps(content, indent=1, sort_keys=True).encode() + b'\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, data)


class LockedError(Exception):
  """Another process holds a lock."""

  def __init__(self, owner: str):
    super().__init__(owner)
    self.owner = owner  # text that the other process wrote to the lock file


@contextlib.contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[BinaryIO]:
  """Yields the open file `path` while this process holds an exclusive lock on it.

  The operating system releases the lock when the process ends, even if it is killed. If the file
  system does not support locks, a warning is printed and the block runs without a lock.

  Args:
    path: lock file; created if missing.
    what: name of the locked resource, for messages on stderr.
    wait: whether to wait, with a message, if another process holds the lock.

  Raises:
    LockedError: another process holds the lock.
    OSError: the file cannot be opened.
  """
  with path.open('a+b', buffering=0) as handle:  # unbuffered: others read it meanwhile
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
        f'vivit: warning: the file system of {what} does not support locks ({error.strerror}): '
        'make sure that no other process writes there',
        file=sys.stderr,
        flush=True,
      )
    yield handle


def discard_output(descriptor: int) -> None:
  """Redirects a file descriptor to /dev/null, for C++ code and output at Python's exit too."""
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, descriptor)
  os.close(nowhere)


def cache_folder(name: str) -> Path:
  """Returns the folder `name` in $VIVIT_CACHE (default ~/.cache/vivit_jax); it may not exist."""
  return Path(os.environ.get('VIVIT_CACHE') or '~/.cache/vivit_jax').expanduser() / name
