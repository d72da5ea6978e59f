# SPDX-License-Identifier: Apache-2.0
"""Finds the videos of a folder by their names in annotations.

`collect_videos` finds the videos of a command line: files, folders, and CSV files that list them.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from vivit_jax.data.index.annotations import split_name
from vivit_jax.data.manifest import SPLITS, Video, parse_span
from vivit_jax.data.tables import read_table
from vivit_jax.errors import DataError, and_more

_SHOWN = 3  # paths per kind in messages
_OURS = {*(f'{split}.csv' for split in SPLITS), 'missing.csv', 'quarantine.csv'}  # our outputs
CONVERT = 'not read: convert them, e.g. `ffmpeg -i IN.gif -pix_fmt yuv420p OUT.mp4`'


class VideoFiles:
  """All videos in a folder, at any depth, except hidden files and folders.

  Attributes:
    folder: the folder.
    paths: sorted paths relative to the folder, separated by '/'.
    notes: possible videos that are left out, with the reason, one line each.
    others: the same for files that are not videos by their names, including annotations.
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
      *_note(links, 'folders that are already searched by another path', kinds=False),
      *_note(hidden, 'hidden files and folders', kinds=False),
    )
    self.others = _note(sorted(others), 'not videos by their names')
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
      name: file name, optionally with some of its parent folders. The suffix may be missing or
        different, because videos are often converted.
      split: if several files match, paths with a folder of this split, e.g. `val`, are preferred.
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
  """Returns files, links to folders that were already visited, and hidden names, each sorted.

  Links are followed, but each folder is visited once. Paths are relative to `folder`.
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
  """Returns at most one line with counts by suffix, the reason, and the first paths."""
  if not paths:
    return ()
  counts = Counter(PurePosixPath(path).suffix.lower() or 'without suffix' for path in paths)
  listed = ', '.join(f'{count:,} {kind}' for kind, count in sorted(counts.items()))
  shown = and_more(map(repr, paths), _SHOWN)
  return (f'left out: {f"{listed}," if kinds else len(paths)} {why}: {shown}',)


SUFFIXES = (
  *('.mp4', '.m4v', '.mov', '.3gp', '.mkv', '.webm', '.avi', '.flv'),
  *('.ts', '.mts', '.m2ts', '.mpg', '.mpeg', '.vob', '.m1v', '.m2v'),
)
# Unsupported video and animation formats, which can be converted.
UNREAD = (
  *('.gif', '.apng', '.wmv', '.asf', '.ogv', '.ogg', '.ogm', '.f4v', '.rm', '.rmvb', '.divx'),
  *('.mxf', '.dv', '.mjpeg', '.y4m', '.264', '.h264', '.265', '.h265', '.hevc', '.ivf'),
)


def collect_videos(arguments: Sequence[str | Path]) -> list[Video]:
  """Returns the videos named by the arguments, in order, without labels.

  Args:
    arguments: video files with any suffix; folders, searched at any depth for files with one of
      SUFFIXES, sorted by path, without hidden ones; or CSV files with a column `path`, relative to
      the file's folder or absolute, and optional `start` and `end` in seconds.

  Raises:
    DataError: a path does not exist, a folder has no videos, or a CSV is invalid.
  """
  videos: list[Video] = []
  for argument in map(Path, arguments):
    if argument.is_dir():
      videos += _folder(argument)
    elif not argument.exists():
      raise DataError(f'{argument} does not exist: give video files, folders or a CSV of paths')
    elif argument.suffix.lower() == '.csv':
      videos += _listed(argument)
    else:
      videos.append(Video(str(argument), None, None, ()))
  return videos


def _folder(folder: Path) -> list[Video]:
  found = sorted(
    file
    for file in folder.rglob('*')
    if file.suffix.lower() in SUFFIXES
    and not any(part.startswith('.') for part in file.relative_to(folder).parts)
    and file.is_file()
  )
  if not found:
    raise DataError(f'{folder} has no videos: none of its files ends in {" ".join(SUFFIXES)}')
  return [Video(str(file), None, None, ()) for file in found]


def _listed(file: Path) -> list[Video]:
  videos = []
  for where, cells in read_table(file, ('path',)):
    path = cells['path']
    if not path or '\0' in path:
      raise DataError(f'{where} has no usable path ({path!r})')
    start, end = parse_span(where, cells.get('start'), cells.get('end'))
    videos.append((where, Video(str(file.parent / path), start, end, ())))
  # Report missing files before hours of work on the others.
  missing = [(where, video.path) for where, video in videos if not Path(video.path).exists()]
  if missing:
    more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
    raise DataError(f'{missing[0][0]} {missing[0][1]} does not exist{more}')
  return [video for _, video in videos]
