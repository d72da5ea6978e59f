# SPDX-License-Identifier: Apache-2.0
"""Reads arrays of safetensors, npz and msgpack files; checks sizes before allocating memory."""

import functools
import json
import math
import mmap
import zipfile
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError, and_more

MAX_JSON = 8 * 2**20  # bytes of a config, index, label table or safetensors header
MAX_ENTRIES = 100_000
MAX_NAME = 512  # characters, including the path
MAX_DIMENSIONS = 8
MAX_RATIO = 20  # unpacked to packed size of an npz; trained weights are below 2
SLACK = 2**20  # additional bytes, since small files of zeros may compress well
MAX_DIRECTORY = 16 * 2**20  # bytes of an npz's zip directory
# Limits for msgpack: total keys and values, keys per map, values per list, nesting depth.
MAX_OBJECTS, MAX_KEYS, MAX_ARRAY, MAX_DEPTH = 300_000, 10_000, 1000, 32
FLOATS = ('float64', 'float32', 'float16', 'bfloat16')
# All types that a file may contain, by safetensors name; only floats can be loaded.
DTYPES = {
  'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16',
  'I64': 'int64', 'I32': 'int32', 'I16': 'int16', 'I8': 'int8',
  'U64': 'uint64', 'U32': 'uint32', 'U16': 'uint16', 'U8': 'uint8', 'BOOL': 'bool',
}  # fmt: skip
FLAX_ARRAY, FLAX_COMPLEX, FLAX_SCALAR = 1, 2, 3  # flax.serialization's extension types
FLAX_CHUNKS = '__msgpack_chunked_array__'  # flax splits arrays beyond 1 GiB

Read = Callable[[], np.ndarray]


class Entry(NamedTuple):
  """One array of a file: its type (a value of DTYPES), its shape, and a function to read it."""

  dtype: str
  shape: tuple[int, ...]
  file: Path
  read: Read


def read_container(
  path: Path, container: str, max_bytes: int
) -> tuple[dict[str, Entry], dict[str, str]]:
  """Returns the arrays of a file by name, and the metadata of a safetensors header.

  Args:
    path: file; the caller has checked its size.
    container: 'safetensors', 'npz' or 'msgpack'.
    max_bytes: limit for the unpacked size.

  Raises:
    CheckpointError: the file is damaged or exceeds a limit.
  """
  metadata: dict[str, str] = {}
  try:
    if container == 'safetensors':
      entries, metadata = _safetensors(path)
    else:
      entries = dict(_npz(path, max_bytes) if container == 'npz' else _msgpack(path))
  except CheckpointError:
    raise
  except Exception as error:  # the libraries' exceptions for damaged files are not documented
    raise CheckpointError(path, f'not a valid {container} file: {describe(error)}') from error
  return entries, metadata


def describe(error: Exception) -> str:
  """Returns the message of an exception, or its type if it has no message."""
  return str(error) or type(error).__name__


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
  """Parses a JSON object; the caller has checked its size.

  Raises:
    CheckpointError: it is not a JSON object, or a key appears twice.
  """
  try:
    tree = json.loads(data.decode(), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    raise CheckpointError(path, f'not valid JSON: {error}') from None
  if not isinstance(tree, dict):
    raise CheckpointError(path, 'not a JSON object')
  return tree


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
  tree = {str(key): value for key, value in pairs}
  if len(tree) != len(pairs):
    raise ValueError('a key appears twice')
  return tree


def _entry(
  path: Path, name: str, dtype: str, shape: tuple[int, ...], held: int, read: Read
) -> Entry:
  """Returns an entry after checking that its name, type, shape and byte count are consistent."""
  if len(name) > MAX_NAME:
    raise CheckpointError(path, f'a name of {len(name)} characters, at most {MAX_NAME} allowed')
  if dtype not in DTYPES.values():
    raise CheckpointError(
      path, f'{name!r} has type {dtype[:20]!r}, supported are {", ".join(DTYPES.values())}'
    )
  if len(shape) > MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
    raise CheckpointError(path, f'{name!r} has the invalid shape {shape[:9]}')
  needed = math.prod(shape) * jnp.dtype(dtype).itemsize
  if held != needed:
    raise CheckpointError(
      path,
      f'{name!r} of shape {shape} and type {dtype} needs {needed} bytes, but the file has {held}',
    )
  return Entry(dtype, shape, path, read)


def _safetensors(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
  """Reads the header, which the library checks; NumPy reads the arrays later (also bfloat16)."""
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if length > MAX_JSON:
      raise ValueError(f'its header claims {length} bytes, at most {MAX_JSON} allowed')
    with safetensors.safe_open(path, 'np'):
      pass
    header = parse_json(file.read(length), path)
  metadata = header.pop('__metadata__', None) or {}
  if len(header) > MAX_ENTRIES:
    raise ValueError(f'{len(header)} tensors, at most {MAX_ENTRIES} allowed')
  entries = {}
  for name, tensor in header.items():
    dtype, shape = DTYPES.get(tensor['dtype'], tensor['dtype']), tuple(tensor['shape'])
    low, high = tensor['data_offsets']
    read = functools.partial(_read_piece, path, dtype, math.prod(shape), 8 + length + low)
    entries[name] = _entry(path, name, dtype, shape, high - low, read)
  return entries, metadata


def _read_piece(path: Path, dtype: str, count: int, offset: int) -> np.ndarray:
  array = np.fromfile(path, jnp.dtype(dtype), count, offset=offset)
  if array.size != count:
    raise EOFError(f'the file ends after {array.size} of {count} elements')
  return array


class _Capped(FileIO):
  """A file that limits the size of reads, since an npz declares the size of its directory."""

  def read(self, size: int | None = -1) -> bytes:
    limit = MAX_DIRECTORY + 1
    data = super().read(limit if size is None or size < 0 else min(size, limit)) or b''
    if len(data) == limit:
      raise ValueError(f'a table of contents of more than {MAX_DIRECTORY} bytes')
    return data


def _npz(path: Path, max_bytes: int) -> Iterator[tuple[str, Entry]]:
  """Reads the zip directory, checks the total size, then reads the headers of the arrays."""
  with _Capped(path) as file, zipfile.ZipFile(file) as archive:
    members = archive.infolist()
    names = [member.filename for member in members]
    if any(name.endswith('data.pkl') for name in names):
      raise CheckpointError(path, f'is a PyTorch archive of pickled objects. {SAFE_CONVERSION}')
    if len(names) > MAX_ENTRIES or len(set(names)) != len(names):
      raise CheckpointError(path, f'{len(names)} members, some twice or more than {MAX_ENTRIES}')
    foreign = [name for name in names if not name.endswith('.npy')]
    if foreign or not names:
      text = and_more(map(repr, foreign))
      raise CheckpointError(path, f'an archive without arrays or with others: {text}')
    total = sum(member.file_size for member in members)
    allowed = min(max_bytes, MAX_RATIO * path.stat().st_size + SLACK)
    if total > allowed:
      raise CheckpointError(path, f'unpacks to {total} bytes, at most {allowed} allowed')
    for member in members:
      name = member.filename
      if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(path, f'{name!r} is packed in a way NumPy does not use')
      with archive.open(member) as stream:
        old = np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        held = member.file_size - stream.tell()
      if dtype.name not in DTYPES.values():
        raise CheckpointError(path, f'{name!r} is not a plain array of numbers: {dtype}'[:200])
      name = name.removesuffix('.npy')
      read = functools.partial(_member, path, name)
      yield name, _entry(path, name, dtype.name, shape, held, read)


def _member(path: Path, name: str) -> np.ndarray:
  with np.load(path, allow_pickle=False) as archive:
    return archive[name]


class _FlaxArray(NamedTuple):
  """An array of a msgpack file, whole or in chunks."""

  shape: Any
  dtype: Any
  pieces: list[bytes]

  def read(self) -> np.ndarray:
    return np.frombuffer(b''.join(self.pieces), jnp.dtype(self.dtype))


class _Msgpack:
  """Reads nested maps of arrays as written by flax, and counts the objects."""

  def __init__(self) -> None:
    self.objects = 0

  def unpack(self, data: Any, **hooks: Any) -> Any:
    return msgpack.unpackb(
      data, strict_map_key=False, list_hook=self.children, object_pairs_hook=self.mapping,
      max_array_len=MAX_ARRAY, max_map_len=MAX_KEYS, **hooks,
    )  # fmt: skip

  def children(self, values: list[Any]) -> list[Any]:
    self.objects += len(values)
    if self.objects > MAX_OBJECTS:
      raise ValueError(f'more than {MAX_OBJECTS} objects')
    return values

  def mapping(self, pairs: list[tuple[Any, Any]]) -> Any:
    if not all(isinstance(key, str | int) for key, _ in self.children(pairs)):
      raise ValueError('a key is neither text nor a number')
    tree = _unique(pairs)
    if not tree.get(FLAX_CHUNKS):
      return tree
    shape, chunks = tree['shape'], tree['chunks']
    parts = [chunks[str(i)] for i in range(len(chunks))]
    if len({part.dtype for part in parts}) != 1:
      raise ValueError('the chunks of an array do not match its shape')
    whole = [shape[str(i)] for i in range(len(shape))]
    return _FlaxArray(whole, parts[0].dtype, [piece for part in parts for piece in part.pieces])

  def extension(self, code: int, data: bytes) -> _FlaxArray | None:
    if code not in (FLAX_ARRAY, FLAX_COMPLEX, FLAX_SCALAR):
      raise ValueError(f'extension type {code} is not one of flax')
    if code == FLAX_COMPLEX:
      return None
    shape, dtype, content = self.unpack(data)
    if not isinstance(shape, list) or not isinstance(dtype, str) or not isinstance(content, bytes):
      raise ValueError('an array is not (shape, type, bytes)')
    return _FlaxArray(shape, dtype, [content])


def _msgpack(path: Path) -> Iterator[tuple[str, Entry]]:
  """Yields the arrays of nested maps by '/'-joined keys; skips other values."""
  reader, names = _Msgpack(), set()
  with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
    tree = reader.unpack(data, ext_hook=reader.extension)
  for name, array in _leaves(tree, ()):
    if name in names:
      raise ValueError(f'{name!r} appears twice')
    names.add(name)
    held = sum(map(len, array.pieces))
    yield name, _entry(path, name, array.dtype, tuple(array.shape), held, array.read)


def _leaves(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, _FlaxArray]]:
  name = '/'.join(keys)
  if len(name) > MAX_NAME or len(keys) > MAX_DEPTH:
    raise ValueError(f'{name[:40]!r}... is longer than {MAX_NAME} or deeper than {MAX_DEPTH} keys')
  if isinstance(tree, _FlaxArray):
    yield name, tree
  elif isinstance(tree, dict | list):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
      yield from _leaves(value, (*keys, str(key)))
