# SPDX-License-Identifier: Apache-2.0
"""Opens a checkpoint of any format, found out from its content; no pickle, no code, bounded."""

import hashlib
import stat
from pathlib import Path
from typing import Any

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError, and_more
from vivit_jax.weights import read_msgpack, read_npz, read_safetensors
from vivit_jax.weights.entries import MAX_BYTES, Checkpoint, Entry

MAX_JSON = 8 * 2**20  # bytes of a config, an index or a table of labels
FOLDER_FILES = ('model.safetensors', 'model.safetensors.index.json')
PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')


def open_checkpoint(
  path: str | Path, sha256: str | None = None, max_bytes: int = MAX_BYTES
) -> Checkpoint:
  """Returns what a checkpoint holds; `Checkpoint.load` then reads arrays.

  Time and memory are bounded before anything is allocated: opening takes seconds and some 200 MB
  at most, loading the arrays as float32 and 5 times the largest one's bytes. Those bytes are part
  of the file; of an npz they are at most 20 times the file, and at most `max_bytes`. A flipped bit
  inside an array is still a number: only `sha256` finds it.

  Args:
    path: an npz, safetensors or msgpack file, an index of safetensors shards, or a folder with
      model.safetensors or its index. Suffixes are not looked at.
    sha256: hexadecimal digest that the file must have; not for shards.
    max_bytes: of the file, or of all shards together.

  Raises:
    CheckpointError: for anything else, naming file and reason.
  """
  path = Path(path)
  if path.is_dir():
    path = _in_folder(path)
  start = _start(path, max_bytes)
  if sha256 is not None:
    _check_digest(path, sha256)
  container = _container(path, start)
  try:
    if container == 'safetensors':
      entries, metadata = read_safetensors.scan(path)
      return Checkpoint(path, container, entries, metadata)
    if container == 'npz':
      return Checkpoint(path, container, read_npz.scan(path, max_bytes), {})
    if container == 'msgpack':
      return Checkpoint(path, container, read_msgpack.scan(path), {})
    if sha256 is not None:
      raise CheckpointError(path, 'sha256 cannot cover several shards: give the digest of one file')
    return Checkpoint(path, 'safetensors', _shards(path, max_bytes), {})
  except OSError as error:
    raise CheckpointError(path, f'cannot be read: {error.strerror}') from None


def read_json(path: Path) -> dict[str, Any]:
  """Returns a JSON object of at most 8 MiB.

  Raises:
    CheckpointError: where it is none.
  """
  _start(path, MAX_JSON)
  return read_safetensors.parse_json(path.read_bytes(), path)


def side_car(path: Path) -> dict[str, Any] | None:
  """Returns the JSON NAME.json beside NAME.msgpack (or beside NAME), if there is one."""
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
  raise CheckpointError(folder, f'holds none of {", ".join(FOLDER_FILES)}; name the file itself')


def _start(path: Path, max_bytes: int) -> bytes:
  """Returns the first bytes of a regular file (a pipe would hang) of bounded size."""
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
  """Returns the format that the first bytes show."""
  if start[:4] == b'PK\x03\x04':
    return 'npz'
  if start[8:9] == b'{':
    return 'safetensors'
  if start.lstrip()[:1] == b'{':
    return 'index'
  if read_msgpack.is_msgpack(start):
    return 'msgpack'
  if start[:2] in (b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05'):
    raise CheckpointError(path, f'holds pickled objects. {SAFE_CONVERSION}')
  if start.startswith(b'version https://git-lfs'):
    raise CheckpointError(path, 'is a Git LFS pointer, not the weights: run `git lfs pull` first')
  if start.lstrip()[:1] == b'<':
    raise CheckpointError(path, 'is a web page, not a checkpoint: the download went wrong')
  raise CheckpointError(path, 'is neither safetensors, npz nor msgpack, or is damaged')


def _check_digest(path: Path, sha256: str) -> None:
  with path.open('rb') as file:
    found = hashlib.file_digest(file, 'sha256').hexdigest()
  if found != sha256.lower():
    raise CheckpointError(path, f'has SHA-256 {found}, expected {sha256}')


def _shards(path: Path, max_bytes: int) -> dict[str, Entry]:
  """Returns the entries of all shards that an index names; both must agree exactly."""
  weights = read_json(path).get('weight_map')
  if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
    raise CheckpointError(path, 'is JSON, but no index of safetensors shards: no weight_map')
  entries: dict[str, Entry] = {}
  for name in sorted(set(weights.values())):
    if Path(name).name != name or name in ('', '.', '..') or '\\' in name or '\0' in name:
      raise CheckpointError(path, f'names a shard outside its folder: {name[:80]!r}')
    shard = path.parent / name
    if _container(shard, _start(shard, max_bytes)) != 'safetensors':
      raise CheckpointError(shard, 'is no safetensors file')
    max_bytes -= shard.stat().st_size
    held, _ = read_safetensors.scan(shard)
    listed = {tensor for tensor, file in weights.items() if file == name}
    if differ := sorted(held.keys() ^ listed):
      raise CheckpointError(
        shard,
        f'holds other tensors than {path.name} says: {and_more(map(repr, differ))}',
      )
    entries |= held
  return entries
