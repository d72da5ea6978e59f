# SPDX-License-Identifier: Apache-2.0
"""Where the arrays of a flax msgpack file lie, found without loading one."""

import struct
from pathlib import Path
from typing import BinaryIO

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.entries import (
  ITEM_BYTES,
  MAX_DIMENSIONS,
  MAX_ENTRIES,
  MAX_NAME,
  Entry,
  check_entry,
)

MAX_DEPTH = 32
MAX_OBJECTS = 300_000  # keys and values
NDARRAY, COMPLEX, SCALAR = 1, 2, 3  # flax.serialization's extension types
CHUNKED = '__msgpack_chunked_array__'  # flax splits arrays beyond 1 GiB

# Kind and struct format of value or length, by leading byte (github.com/msgpack, spec.md).
_FORMATS = {
  0xC0: ('skip', ''), 0xC2: ('skip', ''), 0xC3: ('skip', ''),
  0xC4: ('bin', 'B'), 0xC5: ('bin', 'H'), 0xC6: ('bin', 'I'),
  0xC7: ('ext', 'B'), 0xC8: ('ext', 'H'), 0xC9: ('ext', 'I'),
  0xCA: ('float', 'f'), 0xCB: ('float', 'd'),
  0xCC: ('int', 'B'), 0xCD: ('int', 'H'), 0xCE: ('int', 'I'), 0xCF: ('int', 'Q'),
  0xD0: ('int', 'b'), 0xD1: ('int', 'h'), 0xD2: ('int', 'i'), 0xD3: ('int', 'q'),
  0xD9: ('str', 'B'), 0xDA: ('str', 'H'), 0xDB: ('str', 'I'),
  0xDC: ('array', 'H'), 0xDD: ('array', 'I'), 0xDE: ('map', 'H'), 0xDF: ('map', 'I'),
}  # fmt: skip


def scan(path: Path) -> dict[str, Entry]:
  """Returns every array of nested maps under its '/'-joined keys; numbers and strings are skipped.

  Bounds: 300,000 objects, depth 32, names of 512 characters and 100,000 arrays, so at most some
  200 MB and seconds, whatever the file says; no array's bytes are read.

  Raises:
    CheckpointError: for truncation, trailing bytes, other extension types or an excess.
  """
  with path.open('rb') as file:
    scanner = _Scanner(path, file, path.stat().st_size)
    scanner.value('', 0)
    if scanner.at != scanner.end:
      raise scanner.error(f'{scanner.end - scanner.at} bytes follow the end')
  return _join_chunks(path, scanner.entries, scanner.numbers)


class _Scanner:
  """One walk over the file; jumps over the arrays' bytes."""

  def __init__(self, path: Path, file: BinaryIO, end: int):
    self.path, self.file, self.end, self.at, self.objects = path, file, end, 0, 0
    self.entries: dict[str, Entry] = {}
    self.numbers: dict[str, int] = {}

  def error(self, reason: str) -> CheckpointError:
    return CheckpointError(self.path, f'not a valid msgpack file at byte {self.at}: {reason}')

  def read(self, count: int) -> bytes:
    data = self.file.read(count) if count <= self.end - self.at else b''
    if len(data) != count:
      raise self.error(f'{count} bytes needed, {self.end - self.at} left')
    self.at += count
    return data

  def skip(self, count: int) -> None:
    if count > self.end - self.at:
      raise self.error(f'{count} bytes needed, {self.end - self.at} left')
    self.at += count
    self.file.seek(self.at)

  def head(self) -> tuple[str, int]:
    """Returns the next object's kind and its value (int) or length (all others)."""
    self.objects += 1
    if self.objects > MAX_OBJECTS:
      raise self.error(f'more than {MAX_OBJECTS} objects')
    lead = self.read(1)[0]
    if lead < 0x80 or lead >= 0xE0:
      return 'int', lead if lead < 0x80 else lead - 256
    if lead < 0xC0:
      kind, mask = (('map', 0xF), ('array', 0xF), ('str', 0x1F), ('str', 0x1F))[(lead >> 4) - 8]
      return kind, lead & mask
    if 0xD4 <= lead <= 0xD8:
      return 'ext', 1 << (lead - 0xD4)
    if lead not in _FORMATS:
      raise self.error(f'byte {lead:#x} starts nothing')
    kind, code = _FORMATS[lead]
    if kind == 'float':
      self.skip(struct.calcsize(code))
      return 'skip', 0
    return kind, struct.unpack('>' + code, self.read(struct.calcsize(code)))[0] if code else 0

  def text(self, length: int) -> str:
    if length > MAX_NAME:
      raise self.error(f'a name of {length} bytes, at most {MAX_NAME} allowed')
    try:
      return self.read(length).decode()
    except UnicodeDecodeError:
      raise self.error('a name that is not UTF-8') from None

  def value(self, name: str, depth: int) -> None:
    kind, length = self.head()
    if depth > MAX_DEPTH:
      raise self.error(f'nested deeper than {MAX_DEPTH}')
    if kind == 'map':
      seen: set[str] = set()
      for _ in range(length):
        kind, size = self.head()
        if kind not in ('str', 'int'):
          raise self.error(f'a key of kind {kind}')
        key = self.text(size) if kind == 'str' else str(size)
        if key in seen:
          raise self.error(f'key {key!r} appears twice')
        seen.add(key)
        full = f'{name}/{key}' if name else key
        if len(full) > MAX_NAME:
          raise self.error(f'a name longer than {MAX_NAME} characters')
        self.value(full, depth + 1)
    elif kind == 'array':
      for i in range(length):
        self.value(f'{name}/{i}'[:MAX_NAME], depth + 1)
    elif kind == 'ext':
      self.extension(name, length)
    elif kind == 'int':
      self.numbers[name] = length
    elif kind in ('str', 'bin'):
      self.skip(length)

  def extension(self, name: str, length: int) -> None:
    code = self.read(1)[0]
    if code not in (NDARRAY, COMPLEX, SCALAR):
      raise self.error(f'extension type {code} of {name!r} is none of flax')
    if length > self.end - self.at:
      raise self.error(f'{name!r} needs {length} bytes, {self.end - self.at} left')
    after = self.at + length
    if code == COMPLEX:
      return self.skip(length)
    if self.head() != ('array', 3):
      raise self.error(f'{name!r} is not (shape, type, bytes)')
    kind, count = self.head()
    if kind != 'array' or count > MAX_DIMENSIONS:
      raise self.error(f'{name!r} has no shape')
    sizes = [self.head() for _ in range(count)]
    kind, size = self.head()
    dtype = self.text(size) if kind == 'str' else ''
    if any(kind != 'int' for kind, _ in sizes) or dtype not in ITEM_BYTES:
      raise self.error(f'{name!r} has type {dtype[:20]!r}, known: {", ".join(ITEM_BYTES)}')
    kind, size = self.head()
    if kind != 'bin' or self.at + size != after:
      raise self.error(f'the bytes of {name!r} do not end with it')
    if len(self.entries) >= MAX_ENTRIES or name in self.entries:
      raise self.error(f'{name!r} is too many or appears twice')
    shape = tuple(size for _, size in sizes)
    self.entries[name] = check_entry(name, Entry(dtype, shape, self.path, ((self.at, size),)))
    return self.skip(size)


def _join_chunks(
  path: Path, entries: dict[str, Entry], numbers: dict[str, int]
) -> dict[str, Entry]:
  """Returns the entries with flax's chunked arrays as one entry of several pieces each."""
  joined: dict[str, dict[int, Entry]] = {}
  plain = {}
  for name, entry in entries.items():
    whole, chunk, index = name.rpartition('/chunks/')
    if chunk and index.isdecimal() and f'{whole}/shape/0' in numbers:
      joined.setdefault(whole, {})[int(index)] = entry
    else:
      plain[name] = entry
  for name, chunks in joined.items():
    shape: list[int] = []
    while (size := numbers.get(f'{name}/shape/{len(shape)}')) is not None:
      shape.append(size)
    if sorted(chunks) != list(range(len(chunks))) or len({e.dtype for e in chunks.values()}) != 1:
      raise CheckpointError(path, f'the chunks of {name!r} do not fit together')
    pieces = tuple(piece for i in range(len(chunks)) for piece in chunks[i].pieces)
    plain[name] = check_entry(name, Entry(chunks[0].dtype, tuple(shape), path, pieces))
  return plain


def is_msgpack(start: bytes) -> bool:
  """Whether a file may be a msgpack map: flax writes no other kind."""
  return bool(start) and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF))
