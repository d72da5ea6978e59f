# SPDX-License-Identifier: Apache-2.0
"""Selects the files of a checkpoint in a repository or bucket, and limits their size."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError, and_more, nearest

MAX_BYTES = 16 * 2**30  # total of all files, as for local checkpoints
MAX_FILES = 10_000
WEIGHTS = ('.safetensors', '.npz', '.msgpack')
PICKLED = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')
INDEX = '.safetensors.index.json'
BESIDE = ('config.json', 'preprocessor_config.json')  # not in the tensors
ORBAX = ('_CHECKPOINT_METADATA', 'manifest.ocdbt')  # folders to be downloaded whole


@dataclasses.dataclass(frozen=True)
class File:
  """File information from the server."""

  size: int  # bytes
  digest: str = ''  # SHA-256 in hexadecimal from the hub, CRC32C in base64 from Cloud Storage
  generation: int = 0  # version of an object in Cloud Storage


def choose(address: str, files: Mapping[str, File], path: str) -> tuple[dict[str, File], str]:
  """Returns the files of a checkpoint by name, small ones first, and the name of the one to open.

  Args:
    address: address for messages.
    files: all existing files by name.
    path: file or folder in the address; '' = the whole repository.

  Raises:
    CheckpointError: there is no checkpoint at the path, or several, or only pickled weights, or
      files are unsafe to download.
  """
  names, main = _choose(address, sorted(files), path)
  chosen = {n: files[n] for n in sorted(names, key=lambda name: (files[name].size, name))}
  for name in chosen:
    if {'', '.', '..'} & set(name.split('/')) or '\\' in name or '\0' in name:
      raise CheckpointError(f'{address}: has a file with an unsafe name: {name[:80]!r}')
  size = sum(file.size for file in chosen.values())
  if size > MAX_BYTES or len(chosen) > MAX_FILES:
    raise CheckpointError(
      f'{address}: takes {size} bytes in {len(chosen)} files: at most {MAX_BYTES} and {MAX_FILES}'
    )
  return chosen, main


def _choose(address: str, names: list[str], path: str) -> tuple[list[str], str]:
  if path in names:
    if path.endswith(PICKLED):
      raise CheckpointError(f'{address}: holds pickled weights. {SAFE_CONVERSION}')
    beside = names_beside(path)
    shards = path.removesuffix(INDEX) if path.endswith(INDEX) else None
    return [n for n in names if n == path or n in beside or _is_shard(n, shards)], path
  start = f'{path}/' if path else ''
  below = [n for n in names if n.startswith(start)]
  here = [n for n in below if '/' not in n.removeprefix(start)]
  if not below:
    raise CheckpointError(f'{address}: {path} does not exist there{nearest(path, names)}')
  texts = [n for n in here if n.endswith('.json')]
  if f'{start}model.safetensors' in here:
    texts = [n for n in texts if not n.endswith(INDEX)]
    return [*texts, f'{start}model.safetensors'], path
  if f'{start}model{INDEX}' in here:
    return [*texts, *(n for n in here if _is_shard(n, f'{start}model'))], path
  if any(PurePosixPath(n).name in ORBAX for n in below):
    return below, path
  weights = [n for n in here if n.endswith(WEIGHTS) or re.search(r'(^|/)checkpoint(_\d+)?$', n)]
  if len(weights) == 1:
    return [*texts, *weights], weights[0]
  if weights:
    raise CheckpointError(f'{address}: has several checkpoints, give one of: {and_more(weights)}')
  pickled = [n for n in here if n.endswith(PICKLED)]
  if pickled:
    raise CheckpointError(
      f'{address}: holds only pickled weights: {and_more(pickled)}. {SAFE_CONVERSION}'
    )
  raise CheckpointError(f'{address}: has no weights ({", ".join(WEIGHTS)}), only {and_more(below)}')


def names_beside(path: str) -> set[str]:
  """Returns the possible names of config files for the file at `path`."""
  file = PurePosixPath(path)
  return {str(file.with_suffix('.json')), *(str(file.parent / name) for name in BESIDE)}


def _is_shard(name: str, stem: str | None) -> bool:
  """Returns whether a file is a shard named like STEM-00001-of-00002.safetensors."""
  return stem is not None and bool(
    re.fullmatch(re.escape(stem) + r'-\d+-of-\d+\.safetensors', name)
  )
