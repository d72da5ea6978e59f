# SPDX-License-Identifier: Apache-2.0
"""The cache: where it lies, the records of what it holds whole, and the lock on it."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vivit_jax.remote.listing import File, Listing


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
