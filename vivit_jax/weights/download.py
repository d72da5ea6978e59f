# SPDX-License-Identifier: Apache-2.0
"""Checkpoints at hf:// and gs:// addresses: downloaded once, found on this machine after that.

The libraries of both services do the transfer. Here is what is the same for both: the record of
what is there whole, the copy that is used without a network, and their errors as one line.
"""

import contextlib
import errno
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vivit_jax.errors import CheckpointError
from vivit_jax.files import cache_folder, write_json
from vivit_jax.weights.listing import choose
from vivit_jax.weights.stores import Bucket, Hub

DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def download(path: str | Path, sha256: str | None = None) -> Path:
  """Returns where a checkpoint is on this machine, after downloading it if it is remote.

  Files of the hub go to the hub's own cache, those of Cloud Storage to $VIVIT_CACHE/remote. Files
  that are there in the server's current version are not downloaded again. Without a network the
  last complete copy is used, with a line on stderr.

  Args:
    path: a local path, hf://owner/name[@revision][/file or folder] or gs://bucket/file or folder.
    sha256: hexadecimal digest that the file must have.

  Raises:
    CheckpointError: one line with the address, what happened and the remedy.
  """
  address = re.sub(r'^(hf|gs):/(?=[^/])', r'\1://', str(path))  # pathlib drops one slash
  scheme, remote, rest = address.partition('://')
  if not remote:
    return _checked(address, Path(path), sha256)
  if scheme not in ('hf', 'gs'):
    raise CheckpointError(
      f'{address}: only hf://owner/name[@revision][/file] and gs://bucket/path can be downloaded; '
      'download it by hand and give the local path'
    )
  store = Hub(address, rest) if scheme == 'hf' else Bucket(address, rest)
  name = re.sub(r'[^A-Za-z0-9.-]+', '_', address)[-60:]
  key = hashlib.sha256((store.endpoint + address).encode()).hexdigest()[:16]
  folder = cache_folder('remote') / f'{name}-{key}'
  record = folder.with_name(f'{folder.name}.json')
  try:
    with _one_line(store):
      found = store.find()
  except UnreachableError as error:
    kept = _complete_copy(record)
    if kept is None:
      raise
    print(f'{error.what}: its copy in the cache is used', file=sys.stderr)
    return _checked(address, kept, sha256)
  files, main = choose(address, found, store.path)
  if sha256 and scheme == 'hf' and main in files and files[main].digest:
    _check_sha256(address, files[main].digest, sha256)
  with _one_line(store, 'the download broke off'):
    root = store.fetch(files, folder)
    sizes = {name: file.size for name, file in files.items()}
    write_json(record, {'root': str(root), 'main': main, 'sizes': sizes})
  return _checked(address, root / main, sha256)


class UnreachableError(CheckpointError):
  """The server does not answer; a copy in the cache may do."""

  def __init__(self, what: str, remedy: str):
    super().__init__(f'{what}{remedy}')
    self.what = what


@contextlib.contextmanager
def _one_line(store: Hub | Bucket, broken: str = '') -> Iterator[None]:
  """Turns any error of a library into one line; their types differ from version to version."""
  try:
    yield
  except CheckpointError:
    raise
  except Exception as error:
    status = store.status(error)
    text = str(error) or ('no answer in time' if isinstance(error, TimeoutError) else '')
    reason = ' '.join(f'{type(error).__name__}: {text}'.split())[:200]
    if status in (401, 403):
      what = f'access was refused (HTTP {status}): {store.login}{store.nearest(error)}'
    elif status == 404:
      what = f'does not exist (HTTP 404){store.nearest(error)}'
    elif type(error).__module__.startswith('google.auth'):
      what = f'is not public, and there are no good credentials ({reason}): {store.login}'
    elif isinstance(error, OSError) and error.errno in DISK:
      what = f'the cache cannot be written: {error}; set VIVIT_CACHE or HF_HOME elsewhere'
    else:
      remedy = 'what arrived whole is kept' if broken else 'it needs a network'
      raise UnreachableError(
        f'{store.address}: {broken or "cannot be reached"} ({reason})',
        f'; {remedy}, so try again, or download it by hand (`{store.by_hand}`) and give the local '
        'path',
      ) from error
    raise CheckpointError(f'{store.address}: {what}') from error


def _complete_copy(record: Path) -> Path | None:
  """Returns what a record in the cache says to open, if all its files are there."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
    kept = json.loads(record.read_text())
    root = Path(kept['root'])
    if all((root / name).stat().st_size == size for name, size in kept['sizes'].items()):
      return root / kept['main']
  return None


def _checked(address: str, path: Path, sha256: str | None) -> Path:
  """Returns the path of a file with this SHA-256, if one is given."""
  if sha256 is None:
    return path
  if not path.is_file():
    what = 'is a folder: sha256 is that of one file' if path.is_dir() else 'does not exist'
    raise CheckpointError(f'{address}: {what}')
  with path.open('rb') as file:
    _check_sha256(address, hashlib.file_digest(file, 'sha256').hexdigest(), sha256)
  return path


def _check_sha256(address: str, found: str, sha256: str) -> None:
  if found != sha256.lower():
    raise CheckpointError(
      f'{address}: has SHA-256 {found}, expected {sha256}: it is not the file you mean'
    )
