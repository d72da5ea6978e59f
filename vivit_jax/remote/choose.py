# SPDX-License-Identifier: Apache-2.0
"""Which of the files in a repository or bucket belong to one checkpoint."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from vivit_jax.errors import SAFE_CONVERSION
from vivit_jax.remote.refusal import fail, near, some

WEIGHTS = ('.safetensors', '.npz', '.msgpack')
PICKLED = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')
INDEX = '.safetensors.index.json'
BESIDE = ('config.json', 'preprocessor_config.json')  # what the tensors of a file cannot tell
ORBAX = ('_CHECKPOINT_METADATA', 'manifest.ocdbt')  # a folder with one of these is needed whole


def choose(address: str, names: Iterable[str], path: str) -> tuple[list[str], str]:
  """Returns which files a checkpoint needs and what is to be opened.

  Args:
    address: for errors.
    names: of all files there.
    path: the file or folder that the address names; '' for all of a repository.

  Raises:
    CheckpointError: where the path names no checkpoint, several, or pickled weights.
  """
  names = sorted(names)
  if path in names:
    if path.endswith(PICKLED):
      fail(address, f'holds pickled weights. {SAFE_CONVERSION}')
    beside = names_beside(path)
    shards = path.removesuffix(INDEX) if path.endswith(INDEX) else None
    return [n for n in names if n == path or n in beside or _is_shard(n, shards)], path
  start = f'{path}/' if path else ''
  below = [n for n in names if n.startswith(start)]
  here = [n for n in below if '/' not in n.removeprefix(start)]
  if not below:
    fail(address, f'{path} does not exist there{near(path, names)}')
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
    fail(address, f'holds several checkpoints, name one: {some(weights)}')
  pickled = [n for n in here if n.endswith(PICKLED)]
  if pickled:
    fail(address, f'holds only pickled weights: {some(pickled)}. {SAFE_CONVERSION}')
  return fail(address, f'holds no weights ({", ".join(WEIGHTS)}); there are {some(below)}')


def names_beside(path: str) -> set[str]:
  """Returns what files that explain the one at `path` would be called."""
  file = PurePosixPath(path)
  return {str(file.with_suffix('.json')), *(str(file.parent / name) for name in BESIDE)}


def _is_shard(name: str, stem: str | None) -> bool:
  """Returns whether a file is one of STEM-00001-of-00002.safetensors and so on."""
  return stem is not None and re.fullmatch(
    re.escape(stem) + r'-\d+-of-\d+\.safetensors', name
  ) is not None  # fmt: skip
