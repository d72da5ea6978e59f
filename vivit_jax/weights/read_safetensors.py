# SPDX-License-Identifier: Apache-2.0
"""Headers of safetensors files: 8 bytes of length, JSON, then the tensors back to back."""

import json
from pathlib import Path
from typing import Any

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.entries import MAX_ENTRIES, Entry, check_entry

MAX_HEADER = 8 * 2**20  # bytes; ViViT-H takes 60 kB
# The types' names in the file; 8-bit floats and others we cannot use are refused by name.
DTYPES = {
  'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16',
  'I64': 'int64', 'I32': 'int32', 'I16': 'int16', 'I8': 'int8',
  'U64': 'uint64', 'U32': 'uint32', 'U16': 'uint16', 'U8': 'uint8', 'BOOL': 'bool',
}  # fmt: skip


def scan(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
  """Returns entries and metadata; reads the header alone.

  Bounds: a header of at most 8 MiB and 100,000 tensors, so at most some 200 MB and a second,
  whatever the file says.

  Raises:
    CheckpointError: where the header is not one, or where tensors do not fill the file exactly.
  """
  size = path.stat().st_size
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if length > min(MAX_HEADER, size - 8):
      raise CheckpointError(
        path,
        f'the safetensors header claims {length} bytes, of {size} in the file and {MAX_HEADER} '
        'allowed; the file is truncated or damaged',
      )
    header = parse_json(file.read(length), path)
  metadata = header.pop('__metadata__', {})
  if not _is_strings(metadata):
    raise CheckpointError(path, 'the safetensors metadata must map strings to strings')
  if len(header) > MAX_ENTRIES:
    raise CheckpointError(path, f'{len(header)} tensors, at most {MAX_ENTRIES} allowed')
  start = 8 + length
  entries = {name: _entry(path, name, value, start) for name, value in header.items()}
  end = start
  for name, entry in sorted(entries.items(), key=lambda item: item[1].pieces[0]):
    offset, count = entry.pieces[0]
    if offset != end:
      raise CheckpointError(path, f'{name!r} starts at byte {offset}, expected {end}')
    end += count
  if end != size:
    raise CheckpointError(path, f'the tensors end at byte {end}, the file at {size}')
  return entries, metadata


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
  """Returns a JSON object whose size the caller has bounded.

  Raises:
    CheckpointError: where it is not one, or has a key twice.
  """

  def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
      raise ValueError('a key appears twice')
    return dict(pairs)

  try:
    tree = json.loads(data.decode(), object_pairs_hook=unique)
  except (ValueError, RecursionError) as error:
    raise CheckpointError(path, f'not valid JSON: {error}') from None
  if not isinstance(tree, dict):
    raise CheckpointError(path, 'not a JSON object')
  return tree


def _entry(path: Path, name: str, value: Any, start: int) -> Entry:
  match value:
    case {'dtype': str(dtype), 'shape': list(shape), 'data_offsets': [int(low), int(high)]}:
      pass
    case _:
      raise CheckpointError(path, f'{name[:80]!r} has no dtype, shape and data_offsets')
  if dtype not in DTYPES:
    raise CheckpointError(
      path, f'{name[:80]!r} has type {dtype[:20]!r}, known: {", ".join(DTYPES)}'
    )
  if not 0 <= low <= high or not all(type(n) is int for n in [low, high, *shape]):
    raise CheckpointError(path, f'{name[:80]!r} has impossible offsets or shape')
  entry = Entry(DTYPES[dtype], tuple(shape), path, ((start + low, high - low),))
  return check_entry(name, entry)


def _is_strings(value: Any) -> bool:
  return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
