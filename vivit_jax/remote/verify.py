# SPDX-License-Identifier: Apache-2.0
"""Whether a file is the one that the server announced, and the one that the user means."""

import hashlib
import importlib
from pathlib import Path

from vivit_jax.errors import CheckpointError
from vivit_jax.remote.listing import File
from vivit_jax.remote.refusal import fail


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
