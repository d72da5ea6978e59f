# SPDX-License-Identifier: Apache-2.0
"""The videos in a folder, found by the names that annotations give them."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vivit_jax.data.collect import SUFFIXES, UNREAD
from vivit_jax.data.index.rows import split_name
from vivit_jax.data.manifest import SPLITS
from vivit_jax.errors import DataError

_SHOWN = 3  # paths of each kind
_OURS = {*(f'{split}.csv' for split in SPLITS), 'missing.csv', 'quarantine.csv'}  # of earlier runs
CONVERT = 'not read: convert them, e.g. `ffmpeg -i IN.gif -pix_fmt yuv420p OUT.mp4`'


class VideoFiles:
  """All videos in a folder, at any depth; hidden files and folders are left out.

  Attributes:
    folder: where they are.
    paths: relative to it, parts separated by '/', sorted.
    notes: what may be videos but is left out, and why, one line each.
    others: the same of files that are no videos by their names; annotations are such too.
  """

  def __init__(self, folder: Path):
    """Lists the folder; raises DataError if it has no videos."""
    self.folder = folder
    files, links, hidden = _walk(folder)
    self.paths = [path for path in files if path.lower().endswith(SUFFIXES)]
    unread = [path for path in files if path.lower().endswith(UNREAD)]
    others = set(files) - {*self.paths, *unread, *_OURS}
    others = {path for path in others if not path.startswith('classes/')}
    self.notes = (
      *_note(unread, CONVERT),
      *_note(links, 'folders that are searched by another path already', kinds=False),
      *_note(hidden, 'hidden files and folders', kinds=False),
    )
    self.others = _note(sorted(others), 'no videos by their names')
    if not self.paths:
      raise DataError(
        f'{folder} has no videos: none of its files ends in {" ".join(SUFFIXES)}'
        + ''.join(f'; {note}' for note in self.notes)
      )
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


def _walk(folder: Path) -> tuple[list[str], list[str], list[str]]:
  """Returns files, folders that a link shows once more, and hidden names, each sorted.

  Links are followed, but no folder is entered twice. Paths are relative to `folder`.
  """
  seen: set[tuple[int, int]] = set()
  found, links, hidden = list[str](), list[str](), list[str]()
  with tqdm(desc='looking for videos', unit=' files', disable=None) as progress:
    for top, folders, files in os.walk(folder, followlinks=True):
      inside = Path(top).relative_to(folder)
      status = os.stat(top)
      if (status.st_dev, status.st_ino) in seen:
        links.append(inside.as_posix())
        folders.clear()
        continue
      seen.add((status.st_dev, status.st_ino))
      for name in files:
        (hidden if name.startswith('.') else found).append((inside / name).as_posix())
      hidden += [(inside / name).as_posix() for name in folders if name.startswith('.')]
      folders[:] = sorted(name for name in folders if not name.startswith('.'))
      progress.update(len(files))
  return sorted(found), sorted(links), sorted(hidden)


def _note(paths: Sequence[str], why: str, kinds: bool = True) -> tuple[str, ...]:
  """Returns at most one line: how many by their suffixes, why, and the first of them."""
  if not paths:
    return ()
  counts = Counter(PurePosixPath(path).suffix.lower() or 'without suffix' for path in paths)
  listed = ', '.join(f'{count:,} {kind}' for kind, count in sorted(counts.items()))
  shown = ', '.join(map(repr, paths[:_SHOWN])) + (', ...' if len(paths) > _SHOWN else '')
  return (f'left out: {f"{listed}," if kinds else len(paths)} {why}: {shown}',)
