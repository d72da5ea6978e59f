# SPDX-License-Identifier: Apache-2.0
"""Opens checkpoints of any format, detected from the content; bounded memory, never pickle."""

import dataclasses
import hashlib
import math
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError, and_more
from vivit_jax.weights.containers import (
  FLOATS,
  MAX_JSON,
  Entry,
  describe,
  parse_json,
  read_container,
)

Flat = dict[str, np.ndarray]

MAX_BYTES = 16 * 2**30  # per checkpoint; ViViT-H with two moments of Adam takes 8 GiB
FOLDER_FILES = ('model.safetensors', 'model.safetensors.index.json')
PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """An opened checkpoint.

  Attributes:
    path: the file that was opened; the user may have given its folder.
    entries: all arrays by '/'- or '.'-joined name.
    metadata: string metadata of a safetensors header.
  """

  path: Path
  entries: Mapping[str, Entry]
  metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def load(self, names: Iterable[str]) -> Flat:
    """Returns the named arrays as float32.

    Raises:
      CheckpointError: an array is not floating point, is empty or truncated, or has values that
        are non-finite in float32.
    """
    arrays = {}
    for name in names:
      dtype, shape, file, read = self.entries[name]
      if dtype not in FLOATS:
        raise CheckpointError(file, f'{name} has type {dtype}, need one of {FLOATS}')
      if not math.prod(shape):
        raise CheckpointError(file, f'{name} of shape {shape} has no elements')
      try:
        array = read()
      except Exception as error:
        raise CheckpointError(file, f'{name!r} cannot be read: {describe(error)}') from error
      with np.errstate(over='ignore'):  # a float64 too large for float32 is reported below
        array = array.astype(np.float32, copy=False)
      if not np.isfinite(array).all():
        raise CheckpointError(file, f'{name} contains non-finite values')
      arrays[name] = array.reshape(shape)
    return arrays


def open_checkpoint(
  path: str | Path, sha256: str | None = None, max_bytes: int = MAX_BYTES
) -> Checkpoint:
  """Opens a checkpoint and returns its entries; `Checkpoint.load` then reads arrays.

  Memory is bounded by the size of the file: opening takes at most 200 MB, plus the arrays of a
  msgpack file; loading takes the arrays as float32. An npz may unpack to 20 times its size, and at
  most to `max_bytes`. A flipped bit in an array is detected only with `sha256`.

  Args:
    path: an npz, safetensors or msgpack file, an index of safetensors shards, or a folder with
      model.safetensors or its index. Suffixes are ignored.
    sha256: expected hexadecimal digest of the file; not for shards.
    max_bytes: limit for the size of the file or of all shards together.

  Raises:
    CheckpointError: the file cannot be read; names file and reason.
  """
  path = Path(path)
  if path.is_dir():
    path = _in_folder(path)
  container = _container(path, _start(path, max_bytes))
  if sha256 is not None:
    if container == 'index':
      raise CheckpointError(path, 'sha256 is for a single file, but the checkpoint has shards')
    _check_digest(path, sha256)
  if container == 'index':
    return Checkpoint(path, _shards(path, max_bytes))
  return Checkpoint(path, *read_container(path, container, max_bytes))


def read_json(path: Path) -> dict[str, Any]:
  """Returns a JSON object of at most 8 MiB.

  Raises:
    CheckpointError: the file is anything else.
  """
  _start(path, MAX_JSON)
  return parse_json(path.read_bytes(), path)


def side_car(path: Path) -> dict[str, Any] | None:
  """Returns the content of NAME.json beside NAME.msgpack (or beside NAME), or None."""
  beside = path.with_suffix('.json')
  return read_json(beside) if beside != path and beside.is_file() else None


def _in_folder(folder: Path) -> Path:
  for name in FOLDER_FILES:
    if (folder / name).is_file():
      return folder / name
  pickled = [p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES]
  if pickled:
    raise CheckpointError(
      folder, f'holds only pickled weights: {and_more(map(repr, pickled))}. {SAFE_CONVERSION}'
    )
  raise CheckpointError(folder, f'has none of {", ".join(FOLDER_FILES)}; give the file itself')


def _start(path: Path, max_bytes: int) -> bytes:
  """Returns the first bytes after checking that it is a regular file of allowed size."""
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
      raise CheckpointError(path, 'is not a regular file')
    if status.st_size > max_bytes:
      raise CheckpointError(path, f'has {status.st_size} bytes, at most {max_bytes} allowed')
    with path.open('rb') as file:
      return file.read(512)
  except FileNotFoundError:
    raise CheckpointError(path, 'does not exist') from None
  except (OSError, ValueError) as error:
    raise CheckpointError(path, f'cannot be read: {error}') from None


def _container(path: Path, start: bytes) -> str:
  """Returns the format indicated by the first bytes."""
  if start[:4] == b'PK\x03\x04':
    return 'npz'
  if start[8:9] == b'{':
    return 'safetensors'
  if start.lstrip()[:1] == b'{':
    return 'index'
  if start and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):  # a map, as written by flax
    return 'msgpack'
  if start[:2] in (b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05'):
    raise CheckpointError(path, f'holds pickled objects. {SAFE_CONVERSION}')
  if start.startswith(b'version https://git-lfs'):
    raise CheckpointError(path, 'is a Git LFS pointer, not the weights: run `git lfs pull` first')
  if start.lstrip()[:1] == b'<':
    raise CheckpointError(path, 'is a web page, not a checkpoint: the download failed')
  raise CheckpointError(path, 'is neither safetensors, npz nor msgpack, or is damaged')


def _check_digest(path: Path, sha256: str) -> None:
  with path.open('rb') as file:
    found = hashlib.file_digest(file, 'sha256').hexdigest()
  if found != sha256.lower():
    raise CheckpointError(path, f'has SHA-256 {found}, expected {sha256}')


def _shards(path: Path, max_bytes: int) -> dict[str, Entry]:
  """Returns the entries of all shards in an index; both must match exactly."""
  weights = read_json(path).get('weight_map')
  if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
    raise CheckpointError(path, 'is JSON, but not an index of safetensors shards: no weight_map')
  entries: dict[str, Entry] = {}
  for name in sorted(set(weights.values())):
    if Path(name).name != name or name in ('', '.', '..') or '\\' in name or '\0' in name:
      raise CheckpointError(path, f'names a shard outside its folder: {name[:80]!r}')
    shard = path.parent / name
    if _container(shard, _start(shard, max_bytes)) != 'safetensors':
      raise CheckpointError(shard, 'is not a safetensors file')
    max_bytes -= shard.stat().st_size
    held = read_container(shard, 'safetensors', max_bytes)[0]
    listed = {tensor for tensor, file in weights.items() if file == name}
    if differ := sorted(held.keys() ^ listed):
      raise CheckpointError(
        shard, f'has other tensors than listed in {path.name}: {and_more(map(repr, differ))}'
      )
    entries |= held
  return entries
