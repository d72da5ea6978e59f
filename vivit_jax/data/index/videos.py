# SPDX-License-Identifier: Apache-2.0
"""The videos in a folder, found by the names that annotations give them."""

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vivit_jax.data.collect import SUFFIXES
from vivit_jax.data.index.rows import split_name
from vivit_jax.errors import DataError


class VideoFiles:
  """All videos in a folder, at any depth; hidden files and folders are left out.

  Attributes:
    folder: where they are.
    paths: relative to it, parts separated by '/', sorted.
  """

  def __init__(self, folder: Path):
    """Lists the folder; raises DataError if it has no videos."""
    self.folder = folder
    self.paths = sorted(_walk(folder))
    if not self.paths:
      raise DataError(f'{folder} has no videos: none of its files ends in {" ".join(SUFFIXES)}')
    self._by_stem: dict[str, list[str]] = defaultdict(list)
    for path in self.paths:
      self._by_stem[PurePosixPath(path).stem].append(path)

  def find(self, name: str, split: str) -> str | None:
    """Returns the path of a video, or None.

    Args:
      name: of the file, with any number of the folders above it; the suffix may be missing or
        another one, for videos are often converted.
      split: preferred where several files have the name: a path with a folder such as `val`.
    """
    wanted = PurePosixPath(name)
    stem = wanted.stem if wanted.suffix.lower() in SUFFIXES else wanted.name
    above = wanted.parts[:-1]
    found = [
      path
      for path in self._by_stem.get(stem, ())
      if not above or PurePosixPath(path).parts[:-1][-len(above) :] == above
    ]

    def rank(path: str) -> tuple[bool, bool]:
      parts = PurePosixPath(path).parts
      return (
        all(split_name(part) != split for part in parts[:-1]),
        parts[-1] != wanted.name,
      )

    return min(found, key=rank, default=None)


def _walk(folder: Path):
  """Yields the videos; links are followed, but no folder is entered twice."""
  seen: set[tuple[int, int]] = set()
  with tqdm(desc='looking for videos', unit=' files', disable=None) as progress:
    for top, folders, files in os.walk(folder, followlinks=True):
      status = os.stat(top)
      if (status.st_dev, status.st_ino) in seen:
        folders.clear()
        continue
      seen.add((status.st_dev, status.st_ino))
      folders[:] = sorted(name for name in folders if not name.startswith('.'))
      inside = Path(top).relative_to(folder)
      for name in files:
        if not name.startswith('.') and name.lower().endswith(SUFFIXES):
          yield (inside / name).as_posix()
      progress.update(len(files))
