# SPDX-License-Identifier: Apache-2.0
"""What a server announces: the files that belong to an address, with sizes and digests."""

import dataclasses

from vivit_jax.remote.choose import choose
from vivit_jax.remote.refusal import fail

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
