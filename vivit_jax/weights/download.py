# SPDX-License-Identifier: Apache-2.0
"""Downloads checkpoints from hf:// and gs:// addresses into a local cache.

Libraries of the two services do the transfer. This module has the code for both: a record of
complete downloads, use of the cache without a network, and one-line errors.
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
  """Returns the local path of a checkpoint, and downloads it first if it is remote.

  Files of the hub are stored in the hub's own cache, those of Cloud Storage in $VIVIT_CACHE/remote.
  Files with the server's current version are not downloaded again. Without a network, the last
  complete copy is used, with a message on stderr.

  Args:
    path: a local path, hf://owner/name[@revision][/file or folder] or gs://bucket/file or folder.
    sha256: hexadecimal digest that the file must have.

  Raises:
    CheckpointError: one line with the address, the problem and the remedy.
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
    print(f'{error.what}: using the copy in the cache', file=sys.stderr)
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
  """The server cannot be reached; a cached copy may be used instead."""

  def __init__(self, what: str, remedy: str):
    super().__init__(f'{what}{remedy}')
    self.what = what


@contextlib.contextmanager
def _one_line(store: Hub | Bucket, broken: str = '') -> Iterator[None]:
  """Converts any exception of the libraries to one line; their types vary between versions."""
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
      what = f'is not public, and there are no valid credentials ({reason}): {store.login}'
    elif isinstance(error, OSError) and error.errno in DISK:
      what = f'the cache cannot be written: {error}; set VIVIT_CACHE or HF_HOME to another folder'
    else:
      remedy = 'complete files are kept' if broken else 'it needs a network'
      raise UnreachableError(
        f'{store.address}: {broken or "cannot be reached"} ({reason})',
        f'; {remedy}, so try again, or download it by hand (`{store.by_hand}`) and give the local '
        'path',
      ) from error
    raise CheckpointError(f'{store.address}: {what}') from error


def _complete_copy(record: Path) -> Path | None:
  """Returns the path to open by a record in the cache, or None if a file is missing."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
    kept = json.loads(record.read_text())
    root = Path(kept['root'])
    if all((root / name).stat().st_size == size for name, size in kept['sizes'].items()):
      return root / kept['main']
  return None


def _checked(address: str, path: Path, sha256: str | None) -> Path:
  """Returns the path after checking the SHA-256, if one is given."""
  if sha256 is None:
    return path
  if not path.is_file():
    what = 'is a folder, but sha256 is for one file' if path.is_dir() else 'does not exist'
    raise CheckpointError(f'{address}: {what}')
  with path.open('rb') as file:
    _check_sha256(address, hashlib.file_digest(file, 'sha256').hexdigest(), sha256)
  return path


def _check_sha256(address: str, found: str, sha256: str) -> None:
  if found != sha256.lower():
    raise CheckpointError(
      f'{address}: has SHA-256 {found}, expected {sha256}: it is a different file'
    )
