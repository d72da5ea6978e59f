# SPDX-License-Identifier: Apache-2.0
"""What both services share: optional libraries, and any of their errors as one line.

Calls over a network: how often they are tried, and what their errors mean.

Whether a file is the one that the server announced, and the one that the user means.

The cache: where it lies, the records of what it holds whole, and the lock on it.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.listing import File, Listing, UnreachableError, fail

DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


class Store:
  """One address at one service."""

  endpoint = ''
  library = login = by_hand = broken = ''

  def __init__(self, address: str, progress: bool):
    self.address = address
    self.progress = progress

  def fail(self, reason: str) -> NoReturn:
    """Raises a CheckpointError of one line that starts with the address."""
    fail(self.address, reason)

  def load(self, module: str) -> Any:
    """Returns a module of an optional library."""
    try:
      return importlib.import_module(module)
    except ImportError:
      self.fail(f"needs {self.library}: pip install 'vivit_jax[hub]'")

  @contextlib.contextmanager
  def telling(self, doing: str = '') -> Iterator[None]:
    """Turns whatever a library raises into one line: its types differ from version to version."""
    try:
      yield
    except CheckpointError:
      raise
    except Exception as error:
      status = http_status(error)
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
      if status in (401, 403):
        self.fail(f'access was refused (HTTP {status}): {self.login}{self.nearest(error)}')
      if status == 404:
        self.fail(f'does not exist (HTTP 404){self.nearest(error)}')
      if is_login(error):
        self.fail(f'is not public, and there are no good credentials ({reason}): {self.login}')
      if isinstance(error, OSError) and error.errno in DISK:
        self.fail(f'the cache cannot be written: {error}; set VIVIT_CACHE or HF_HOME elsewhere')
      strange = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
      happened = 'gives an answer that makes no sense' if strange else 'cannot be reached'
      happened = f'{doing} broke off' if doing else happened
      kept = self.broken if doing else 'try again when there is a network'
      remedy = f'; {kept}, or fetch it by hand (`{self.by_hand}`) and give the local path'
      raise UnreachableError(f'{self.address}: {happened} ({reason})', remedy) from error

  def nearest(self, error: Exception) -> str:
    """Returns '; nearest: ...', as far as the service tells."""
    return ''


CONNECT_SECONDS = 10  # to open a connection, or for the hub to answer about a file
PAUSES = (0.5, 2.0)  # seconds before the second and the third attempt
BUSY = (408, 429, 500, 502, 503, 504)  # answers that another attempt may better

T = TypeVar('T')


def attempt(call: Callable[[], T]) -> T:
  """Calls again after a broken connection or a busy server, never after a clear answer."""
  for pause in PAUSES:
    try:
      return call()
    except Exception as error:
      if http_status(error) not in (None, *BUSY) or is_login(error):
        raise
    time.sleep(pause)
  return call()


def http_status(error: Exception) -> int | None:
  """Returns the HTTP status in an error of httpx, requests, the hub or Google; None without one."""
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  return status or getattr(error, 'code', None)


def is_login(error: Exception) -> bool:
  """Whether Google's library found no credentials, or bad ones."""
  return type(error).__module__.startswith('google.auth')


def check_arrived(address: str, path: Path, file: File) -> None:
  """Deletes a file that is not what the server announced.

  Raises:
    CheckpointError: where it was.
  """
  size = path.stat().st_size
  algorithm, _, digest = file.digest.partition(':')
  found = _digest(path, algorithm) if algorithm else ''
  if size == file.size and found == digest:
    return
  for wrong in {path.resolve(), path}:
    wrong.unlink(missing_ok=True)
  told = f'{file.size} bytes with {algorithm} {digest}'.removesuffix(' with  ')
  fail(
    address,
    f'{file.name} arrived as {size} bytes with {algorithm} {found}, announced were {told}: the '
    'file is deleted, try again',
  )


def check_file(address: str, path: Path, sha256: str | None) -> Path:
  """Returns the path of a file with this SHA-256, if one is given.

  Raises:
    CheckpointError: where it has another, is a folder or does not exist.
  """
  if sha256 is None:
    return path
  if not path.is_file():
    what = 'is a folder: sha256 is that of one file' if path.is_dir() else 'does not exist'
    raise CheckpointError(f'{address}: {what}')
  check_sha256(address, _digest(path, 'sha256'), sha256)
  return path


def check_sha256(address: str, found: str, sha256: str) -> None:
  """Raises a CheckpointError where the digest found is not that of the user."""
  if found != sha256.lower():
    raise CheckpointError(
      f'{address}: has SHA-256 {found}, expected {sha256}: it is not the file you mean'
    )


def _digest(path: Path, algorithm: str) -> str:
  if algorithm == 'git':  # of files that the hub keeps outside of LFS
    digest = hashlib.sha1(b'blob %d\0' % path.stat().st_size)
  elif algorithm == 'crc32c':
    digest = importlib.import_module('google_crc32c').Checksum()
  else:
    digest = hashlib.new(algorithm)
  with path.open('rb') as file:
    while piece := file.read(2**20):
      digest.update(piece)
  return digest.digest().hex()


@dataclasses.dataclass(frozen=True)
class Kept:
  """What the cache holds whole: written after the last file was checked, so it never lies."""

  root: str
  listing: Listing

  @property
  def result(self) -> Path:
    """What is to be opened."""
    return Path(self.root, self.listing.main)

  def whole(self) -> bool:
    """Whether all files are still there."""
    files = ((Path(self.root, file.name), file.size) for file in self.listing.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


def cache_folder(address: str, endpoint: str) -> Path:
  """Returns the folder for the files of an address; `record` of it tells what lies there."""
  cache = Path(os.environ.get('VIVIT_CACHE') or Path.home() / '.cache/vivit_jax/remote')
  return cache / f'{re.sub(r"[^A-Za-z0-9.-]+", "_", address)[-60:]}-{short(endpoint + address)}'


def record(folder: Path) -> Path:
  """Returns the file that says what belongs to an address and where it lies."""
  return folder.with_name(f'{folder.name}.json')


def read_record(path: Path) -> Kept | None:
  """Returns what the cache holds, if it is whole; a damaged record is as good as none."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    held = json.loads(path.read_text())
    files = tuple(File(**file) for file in held['listing'].pop('files'))
    kept = Kept(held['root'], Listing(**held['listing'], files=files))
    return kept if kept.whole() else None
  return None


def write_record(path: Path, kept: Kept) -> None:
  """Writes a record; readers never see half of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.{os.getpid()}')
  part.write_text(json.dumps(dataclasses.asdict(kept)))
  part.replace(path)


@contextlib.contextmanager
def locked(path: Path, address: str) -> Iterator[None]:
  """Lets one process fetch; the others, which wait, find the files there."""
  with path.open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'{address}: waiting for another process that fetches it', file=sys.stderr)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def short(text: str) -> str:
  """Returns a name for a place in the cache: 16 hexadecimal digits that only this text has."""
  return hashlib.sha256(text.encode()).hexdigest()[:16]
