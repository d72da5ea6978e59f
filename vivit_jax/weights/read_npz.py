# SPDX-License-Identifier: Apache-2.0
"""Where the arrays of an npz archive lie, with every size known before anything is unpacked."""

import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError, and_more
from vivit_jax.weights.entries import MAX_ENTRIES, Entry, check_entry

MAX_DIRECTORY = 16 * 2**20  # bytes of the archive's table of contents
MAX_RATIO = 20  # of unpacked to packed size; trained weights stay below 2
SLACK = 2**20  # bytes on top, so that a small file of zeros may still compress well
MAX_HEADER = 4096  # bytes of an array's header; NumPy's are 128
_HEADER = re.compile(
  r"\{'descr': '([<|])([a-z][0-9]+)', 'fortran_order': (True|False), "
  r"'shape': \(((?:[0-9]{1,18},? ?)*)\), \} *\n",
  re.ASCII,
)
DTYPES = {
  'f8': 'float64', 'f4': 'float32', 'f2': 'float16', 'b1': 'bool',
  'i8': 'int64', 'i4': 'int32', 'i2': 'int16', 'i1': 'int8',
  'u8': 'uint64', 'u4': 'uint32', 'u2': 'uint16', 'u1': 'uint8',
}  # fmt: skip


class _Capped:
  """A file that refuses to read much at once: the archive says how much zipfile asks for."""

  def __init__(self, file: Any):
    self.file = file
    self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
    self.close = file.close

  def read(self, count: int = -1) -> bytes:
    data = self.file.read(min(count, MAX_DIRECTORY + 1) if count >= 0 else MAX_DIRECTORY + 1)
    if len(data) > MAX_DIRECTORY:
      raise ValueError(f'a table of contents of more than {MAX_DIRECTORY} bytes')
    return data


def scan(path: Path, max_bytes: int) -> dict[str, Entry]:
  """Returns every array by its name in the archive.

  Bounds: a table of contents of 16 MiB and 100,000 members (some 200 MB, seconds), an unpacked
  size of at most `max_bytes` and 20 times the file; per member only its header is unpacked here.
  Pickled objects are refused: the header is matched as text, never evaluated.

  Raises:
    CheckpointError: where a member is no plain array, or a bound is passed.
  """
  try:
    with path.open('rb') as file, zipfile.ZipFile(_Capped(file)) as archive:
      members = archive.infolist()
      _check_sizes(path, members, max_bytes)
      return {
        member.filename.removesuffix('.npy'): _entry(path, archive, member) for member in members
      }
  except (
    OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile
  ) as error:  # fmt: skip
    # NotImplementedError (compression methods) is a RuntimeError, UnicodeDecodeError a ValueError.
    raise CheckpointError(path, f'not a valid npz archive: {error}') from None


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
  names = [member.filename for member in members]
  if any(name.endswith('data.pkl') for name in names):
    raise CheckpointError(path, f'is a PyTorch archive of pickled objects. {SAFE_CONVERSION}')
  if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
    raise CheckpointError(path, f'{len(names)} members, some twice or more than {MAX_ENTRIES}')
  foreign = [name for name in names if not name.endswith('.npy')]
  if foreign or not names:
    raise CheckpointError(
      path, f'an archive without arrays or with others: {and_more(map(repr, foreign))}'
    )
  total = sum(member.file_size for member in members)
  allowed = min(max_bytes, MAX_RATIO * path.stat().st_size + SLACK)
  if total > allowed:
    raise CheckpointError(path, f'unpacks to {total} bytes, at most {allowed} allowed')


def _entry(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
  name = member.filename
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
    raise CheckpointError(path, f'{name!r} is encrypted or packed in a way NumPy does not use')
  with archive.open(member) as stream:
    magic = stream.read(8)
    if magic[:6] != b'\x93NUMPY' or magic[6] not in (1, 2):
      raise CheckpointError(path, f'{name!r} is not a NumPy array')
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), 'little')
    if length > MAX_HEADER:
      raise CheckpointError(path, f'{name!r} has a header of {length} bytes, not {MAX_HEADER}')
    text = stream.read(length).decode('latin1')
  match = _HEADER.fullmatch(text)
  if match is None or match[2] not in DTYPES:
    raise CheckpointError(
      path, f'{name!r} is not a plain array of numbers: {text[:60]!r}; types: {", ".join(DTYPES)}'
    )
  shape = tuple(int(size) for size in re.findall(r'[0-9]+', match[4]))
  dtype = DTYPES[match[2]]
  start = 8 + width + length
  entry = Entry(
    dtype, shape, path, ((start, member.file_size - start),), name, fortran=match[3] == 'True'
  )
  return check_entry(name, entry)
