# SPDX-License-Identifier: Apache-2.0
"""Videos and labels of a split: CSV manifests and class name files."""

import dataclasses
import hashlib
import math
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from vivit_jax.config.schema import Task
from vivit_jax.data.storage import Folder, Objects, exists, folder, is_remote
from vivit_jax.data.tables import MissingFileError, read_table, read_text
from vivit_jax.data.timing import stage
from vivit_jax.data.video.array import FrameArray
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.errors import DataError, nearest

SPLITS = ('train', 'validation', 'test')
SEPARATOR = '|'  # separates class names in a multi_label cell


@dataclasses.dataclass(frozen=True)
class Video:
  """One row of a manifest."""

  path: str  # absolute
  start: float | None  # seconds after the first frame, inclusive; None = first frame
  end: float | None  # seconds after the first frame, exclusive; None = end of the video
  labels: tuple[int, ...]  # class id per head; for multi_label, ids of present classes, sorted


@runtime_checkable
class Contents(Protocol):
  """The bytes of a split's videos by index, if they are not local files."""

  def __getitem__(self, index: int) -> bytes:
    """Returns the bytes of a video; raises DecodeError."""


@runtime_checkable
class Items(Protocol):
  """Already decoded videos by index, e.g. from a user's own source."""

  def __getitem__(self, index: int) -> FrameArray:
    """Returns the frames of a video; raises DecodeError."""


@dataclasses.dataclass(frozen=True)
class Manifest:
  """One split of a data set."""

  split: str
  videos: tuple[Video, ...]
  class_names: dict[str, tuple[str, ...]]  # class names per head, by class id; {} = no labels
  fingerprint: str  # identifies rows and class names; 16 hexadecimal digits
  multi_label: bool  # whether `Video.labels` has the present classes instead of one per head
  contents: Contents | None = None  # None = `Video.path` is a local file
  items: Items | None = None  # decoded videos instead of files; `Video.path` is their name
  labels_known: bool = True  # False = `Video.labels` is (); labels are read with each item

  @property
  def title(self) -> str:
    """Name of the list of videos in messages."""
    return f'{self.split}.csv' if self.items is None else f'the {self.split} split'

  def open(
    self, index: int, video: Video | None = None, kind: type[VideoReader] = VideoReader
  ) -> VideoReader:
    """Returns the frames of a video between its start and end; raises DecodeError.

    Args:
      index: index in `videos`.
      video: the video at this index; passed because some processes have no `videos`.
      kind: reader class.
    """
    if self.items is not None:
      with stage('decode'):
        return self.items[index]
    video = video or self.videos[index]
    with stage('fetch'):
      content = None if self.contents is None else self.contents[index]
    with stage('open'):
      return kind(video.path, video.start, video.end, content)


def read_manifest(root: str | Folder, split: str, task: Task) -> Manifest:
  """Reads `root/<split>.csv` and `root/classes/<head>.txt`.

  Args:
    root: folder of the manifests, local or gs://; the `path` column is relative to it.
    split: 'train', 'validation' or 'test'.
    task: its heads are columns of the CSV; its class counts, if set, must match the class files.

  Returns:
    The split's videos in file order, at least one.

  Raises:
    DataError: a file, column, row or class count is missing or invalid.
  """
  root = folder(root)
  class_names = read_class_names(root, task)
  _check_counts(root, task, class_names)
  file = root / f'{split}.csv'
  content = _read_text(file)
  ids = {h: {name: i for i, name in enumerate(names)} for h, names in class_names.items()}
  table = read_table(file, ('path', *task.heads), text=content)
  videos = tuple(_video(root, where, cells, task, ids) for where, cells in table)
  parts = [content, *(f'{head}\n' + '\n'.join(names) for head, names in class_names.items())]
  digest = hashlib.sha256('\0'.join(parts).encode()).hexdigest()
  contents = Objects(tuple(video.path for video in videos)) if is_remote(root) else None
  return Manifest(split, videos, class_names, digest[:16], task.kind == 'multi_label', contents)


def read_class_names(root: Folder, task: Task) -> dict[str, tuple[str, ...]]:
  """Returns the names in `root/classes/<head>.txt` per head of the task; raises DataError."""
  return {head: _read_classes(root / 'classes' / f'{head}.txt') for head in task.heads}


def _read_text(file: Folder) -> str:
  try:
    return read_text(file)
  except MissingFileError:
    there = [f'{name}.csv' for name in SPLITS if exists(file.parent / f'{name}.csv')]
    if there:
      raise DataError(f'{file} does not exist: {file.parent} has {" and ".join(there)}') from None
    raise DataError(
      f'{file} does not exist: config.data.root must hold {", ".join(f"{s}.csv" for s in SPLITS)} '
      'and classes/<head>.txt'
    ) from None


def _read_classes(file: Folder) -> tuple[str, ...]:
  names = tuple(line.strip() for line in _read_text(file).rstrip().splitlines())
  seen: dict[str, int] = {}
  for line, name in enumerate(names, start=1):
    if not name:
      raise DataError(f'{file}:{line} is empty: give one class name a line')
    if name in seen:
      raise DataError(f'{file}:{line} repeats {name!r} of line {seen[name]}: remove one of them')
    seen[name] = line
  return names


def _check_counts(root: Folder, task: Task, class_names: dict[str, tuple[str, ...]]) -> None:
  found = tuple(len(names) for names in class_names.values())
  if not task.classes:
    return
  for head, expected, count in zip(task.heads, task.classes, found, strict=True):
    if expected != count:
      override = ','.join(map(str, found)) + (',' if len(found) == 1 else '')
      raise DataError(
        f'{root / "classes" / head}.txt has {count} classes but config.task.classes expects '
        f'{expected}: use --config.task.classes="({override})"'
      )


def _video(
  root: Folder, where: str, row: dict[str, str], task: Task, ids: dict[str, dict[str, int]]
) -> Video:
  path = row['path']
  check_path(where, path, root)
  start, end = parse_span(where, row.get('start'), row.get('end'))
  if task.kind == 'multi_label':
    head = task.heads[0]
    names = [n.strip() for n in row[head].split(SEPARATOR)] if row[head].strip() else []
    labels = tuple(sorted({_class_id(where, head, name, ids[head]) for name in names}))
  else:
    labels = tuple(_class_id(where, h, row[h].strip(), ids[h]) for h in task.heads)
  return Video(str(root / path), start, end, labels)


def check_path(where: str, path: str, root: Folder) -> None:
  """Raises DataError unless the path of a row is inside `root`."""
  if not path or '\0' in path:
    raise DataError(f'{where} has no usable path ({path!r}): give one relative to {root}')
  if path.startswith(('/', '\\')) or '://' in path or '..' in PurePosixPath(path).parts:
    raise DataError(
      f'{where} path {path!r} must be relative to {root} and stay inside: no absolute paths, '
      "URLs or '..'"
    )


def parse_seconds(where: str, name: str, cell: str | None) -> float | None:
  """Returns the time in a cell of column `name`, or None if it is empty; raises DataError."""
  if not (cell or '').strip():
    return None
  try:
    value = float(cell or '')
  except ValueError:
    value = math.nan
  if not 0 <= value < math.inf:
    raise DataError(f'{where} {name}={cell!r} is not a time: give seconds >= 0 or leave it empty')
  return value


def parse_span(where: str, start: str | None, end: str | None) -> tuple[float | None, float | None]:
  """Returns the seconds in two cells, None where empty; raises DataError unless end > start."""
  low, high = parse_seconds(where, 'start', start), parse_seconds(where, 'end', end)
  if high is not None and high <= (low or 0.0):
    raise DataError(f'{where} end={high} is not after start={low or 0.0}: both are in seconds')
  return low, high


def _class_id(where: str, head: str, name: str, ids: dict[str, int]) -> int:
  if name not in ids:
    raise DataError(f'{where} {head}={name!r} is not in classes/{head}.txt{nearest(name, ids)}')
  return ids[name]
