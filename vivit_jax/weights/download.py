# SPDX-License-Identifier: Apache-2.0
"""From the address of a checkpoint to the place where it lies on this machine."""

import re
import sys
from pathlib import Path

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.bucket import Bucket
from vivit_jax.weights.hub import Hub
from vivit_jax.weights.listing import UnreachableError
from vivit_jax.weights.remote import (
  Kept,
  cache_folder,
  check_file,
  check_sha256,
  read_record,
  record,
  write_record,
)

STORES: dict[str, type[Hub] | type[Bucket]] = {'hf': Hub, 'gs': Bucket}


def localise(path: str | Path, sha256: str | None = None, progress: bool | None = None) -> Path:
  """Returns where a checkpoint lies on this machine, after fetching it where it is remote.

  Hub files go to the hub's own cache, Cloud Storage's to $VIVIT_CACHE (~/.cache/vivit_jax/remote).
  What is there in the version that the server announces is not fetched again; without network the
  last whole copy is taken, with a line on stderr.

  Args:
    path: a local path, hf://owner/name[@revision][/file or folder] or gs://bucket/file or folder.
    sha256: hexadecimal digest that the file must have.
    progress: whether to show rate and remaining time on stderr; None where that is a terminal.

  Raises:
    CheckpointError: one line with the address, what happened and the remedy.
  """
  address = re.sub(r'^(hf|gs):/(?=[^/])', r'\1://', str(path))  # pathlib drops one slash
  scheme, remote, rest = address.partition('://')
  if not remote:
    return check_file(address, Path(path), sha256)
  if scheme not in STORES:
    raise CheckpointError(
      f'{address}: only hf://owner/name[@revision][/file] and gs://bucket/path are fetched; '
      'download it by hand and give the local path'
    )
  store = STORES[scheme](address, rest, sys.stderr.isatty() if progress is None else progress)
  folder = cache_folder(address, store.endpoint)
  kept = read_record(record(folder))
  try:
    listing = store.find()
  except UnreachableError as error:
    if kept is None:
      raise
    print(f'{error.what}: its copy in the cache is used', file=sys.stderr)
    return check_file(address, kept.result, sha256)
  known = next((f.digest for f in listing.files if f.name == listing.main), '')
  if sha256 and known.startswith('sha256:'):
    check_sha256(address, known.removeprefix('sha256:'), sha256)
  if kept is None or kept.listing != listing:
    with store.telling():
      kept = Kept(str(store.download(listing, folder)), listing)
      write_record(record(folder), kept)
  return check_file(address, kept.result, sha256)
