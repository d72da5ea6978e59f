# SPDX-License-Identifier: Apache-2.0
"""What a server announces: the files that belong to an address, with sizes and digests.

Which of the files in a repository or bucket belong to one checkpoint.

What the user reads where an address cannot be served: one line, with the nearest names.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NoReturn

from vivit_jax.errors import SAFE_CONVERSION, CheckpointError

MAX_BYTES = 16 * 2**30  # of all files together, as in convert
MAX_FILES = 10_000


@dataclasses.dataclass(frozen=True)
class File:
  """One file as the server announces it."""

  name: str  # in the repository or bucket
  size: int
  digest: str  # 'algorithm:hexadecimal', or '' where the server tells none


@dataclasses.dataclass(frozen=True)
class Listing:
  """What belongs to an address: the files in one version, and which of them is to be opened."""

  version: str
  main: str  # a file, a folder, or '' for all of a repository
  files: tuple[File, ...]


def make_listing(address: str, version: str, found: dict[str, File], path: str) -> Listing:
  """Returns the files that the checkpoint at `path` needs, small ones first.

  Raises:
    CheckpointError: where there is no one checkpoint, or its files are unsafe to fetch.
  """
  chosen, main = choose(address, found, path)
  files = sorted((found[name] for name in chosen), key=lambda file: (file.size, file.name))
  for name in (file.name for file in files):
    if {'', '.', '..'} & set(name.split('/')) or '\\' in name or '\0' in name:
      fail(address, f'has a file with an unsafe name: {name[:80]!r}')
  size = sum(file.size for file in files)
  if size > MAX_BYTES or len(files) > MAX_FILES:
    fail(address, f'takes {size} bytes in {len(files)} files: at most {MAX_BYTES} and {MAX_FILES}')
  return Listing(version, main, tuple(files))


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


class UnreachableError(CheckpointError):
  """No answer from the server; a copy in the cache may do."""

  def __init__(self, what: str, remedy: str):
    self.what = what
    super().__init__(f'{what}{remedy}')


def fail(address: str, reason: str) -> NoReturn:
  """Raises a CheckpointError of one line."""
  raise CheckpointError(f'{address}: {" ".join(reason.split())}')


def near(name: str, names: Iterable[str]) -> str:
  """Returns '; nearest: ...', or what there is where nothing is near."""
  names = list(names)
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  return f'; nearest: {", ".join(close)}' if close else f'; there are: {some(names) or "none"}'


def some(names: Iterable[str]) -> str:
  """Returns the first names and how many more there are."""
  names = list(names)
  return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
