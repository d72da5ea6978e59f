# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint file says it holds, checked before anything is allocated, then loaded."""

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from vivit_jax.errors import CheckpointError

Flat = dict[str, np.ndarray]

MAX_BYTES = 16 * 2**30  # of one checkpoint; ViViT-H with two moments of Adam takes 8 GiB
MAX_ENTRIES = 100_000
MAX_NAME = 512  # characters, path included
MAX_DIMENSIONS = 8
PIECE = 2**20  # bytes of a compressed member read at once

# Bytes per element of every type a file may mention; only floating point ones can be loaded.
ITEM_BYTES = {
  'float64': 8, 'float32': 4, 'float16': 2, 'bfloat16': 2,
  'int64': 8, 'int32': 4, 'int16': 2, 'int8': 1,
  'uint64': 8, 'uint32': 4, 'uint16': 2, 'uint8': 1, 'bool': 1,
}  # fmt: skip
FLOATS = ('float64', 'float32', 'float16', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where one array lies.

  Attributes:
    dtype: a key of ITEM_BYTES, little-endian.
    shape: of the array.
    file: that holds it (a sharded checkpoint has several).
    pieces: (offset, bytes) in the file, or in the zip member after decompression.
    member: of a zip archive; '' where the file is not an archive.
    fortran: whether the elements lie in column-major order.
  """

  dtype: str
  shape: tuple[int, ...]
  file: Path
  pieces: tuple[tuple[int, int], ...]
  member: str = ''
  fortran: bool = False

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint: its header, and arrays on demand.

  Attributes:
    path: what the user named.
    container: the file format, found out from the content.
    entries: every array by '/'- or '.'-joined name; nothing of it is loaded yet.
    metadata: strings of a safetensors header.
  """

  path: Path
  container: str
  entries: Mapping[str, Entry]
  metadata: Mapping[str, str]

  def load(self, names: Iterable[str]) -> Flat:
    """Returns the named arrays as float32; beside them, 5 times the largest one's bytes at most.

    Raises:
      CheckpointError: for a type that is no floating point number, an empty array, a value that is
        not finite (in float32), or a file that does not hold what its header promised.
    """
    arrays = {}
    for name in names:
      entry = self.entries[name]
      if entry.dtype not in FLOATS:
        raise CheckpointError(entry.file, f'{name} has type {entry.dtype}, need one of {FLOATS}')
      if entry.nbytes == 0:
        raise CheckpointError(entry.file, f'{name} of shape {entry.shape} has no elements')
      raw = _read(entry, name)
      with np.errstate(over='ignore'):  # a float64 too large for float32 is caught just below
        array = _as_float32(raw, entry.dtype)
      if not np.isfinite(array).all():
        raise CheckpointError(entry.file, f'{name} holds values that are not finite')
      arrays[name] = array.reshape(entry.shape, order='F' if entry.fortran else 'C')
    return arrays


def check_entry(name: str, entry: Entry) -> Entry:
  """Returns `entry` if its name, type, shape and bytes agree; bounds everything that follows."""
  if len(name) > MAX_NAME:
    raise CheckpointError(entry.file, f'a name of {len(name)} characters, at most {MAX_NAME} fit')
  if len(entry.shape) > MAX_DIMENSIONS or any(size < 0 for size in entry.shape):
    raise CheckpointError(entry.file, f'{name!r} has the impossible shape {entry.shape[:9]}')
  held = sum(count for _, count in entry.pieces)
  if held != entry.nbytes:
    raise CheckpointError(
      entry.file,
      f'{name!r} of shape {entry.shape} and type {entry.dtype} needs {entry.nbytes} bytes, the '
      f'file gives it {held}',
    )
  return entry


def _as_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
  """Returns little-endian bytes as a float32 vector; bfloat16 is float32's upper half."""
  if dtype == 'bfloat16':
    return (raw.view('<u2').astype(np.uint32) << np.uint32(16)).view(np.float32)
  return raw.view(np.dtype(dtype).newbyteorder('<')).astype(np.float32, copy=False)


def _read(entry: Entry, name: str) -> np.ndarray:
  """Returns the bytes of one array, never more than its header promised."""
  raw = np.empty(entry.nbytes, np.uint8)
  try:
    if entry.member:
      with zipfile.ZipFile(entry.file) as archive, archive.open(entry.member) as stream:
        _skip(stream.read, entry.pieces[0][0])
        filled = _fill(raw, stream.read)
        if stream.read(1):  # and only now has the checksum been compared
          raise ValueError('the member is longer than its header says')
    else:
      filled = 0
      with entry.file.open('rb') as stream:
        for offset, count in entry.pieces:
          stream.seek(offset)
          filled += _fill(raw[filled : filled + count], stream.read)
  except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
    raise CheckpointError(entry.file, f'{name!r} cannot be read: {error}') from None
  if filled != entry.nbytes:
    raise CheckpointError(entry.file, f'{name!r} ends after {filled} of {entry.nbytes} bytes')
  return raw


def _fill(target: np.ndarray, read: Callable[[int], bytes]) -> int:
  """Reads into `target` until it is full or the file ends; returns how many bytes came."""
  filled = 0
  while filled < len(target):
    piece = read(min(PIECE, len(target) - filled))
    if not piece:
      break
    target[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
    filled += len(piece)
  return filled


def _skip(read: Callable[[int], bytes], count: int) -> None:
  if len(read(count)) != count:
    raise EOFError('file ended in the header')
