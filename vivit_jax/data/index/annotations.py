# SPDX-License-Identifier: Apache-2.0
"""What every reader of annotations returns: videos, their classes and where that stands.

Here are also what the readers share: finding annotation files, the times in their cells, and the
videos for validation if the data set names none, the same on every machine.
"""

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from vivit_jax.data.manifest import SEPARATOR, SPLITS
from vivit_jax.data.tables import read_text
from vivit_jax.errors import DataError, nearest

_SPLIT_NAMES = {
  'train': ('train', 'training'),
  'validation': ('validation', 'val', 'valid', 'validate'),
  'test': ('test', 'testing'),
}


@dataclasses.dataclass(frozen=True)
class Annotation:
  """One example."""

  split: str  # one of SPLITS
  path: str | None  # below the folder of the videos, parts separated by '/'; None = not there
  names: tuple[str, ...]  # class per head; of a multi-label head several, joined by SEPARATOR
  wanted: str  # how the annotation names the video
  where: str  # 'file:line' of the annotation, for messages
  start: float | None = None  # seconds after the first frame; see manifest.Video
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Index:
  """What a data set consists of."""

  rows: tuple[Annotation, ...]
  classes: dict[str, tuple[str, ...]]  # names per head, in the order of their ids
  multi_label: bool = False
  notes: tuple[str, ...] = ()  # what was left out or decided, one line each
  inputs: tuple[Path, ...] = ()  # annotation files, never to be overwritten


def split_name(text: str) -> str | None:
  """Returns which of SPLITS a folder or a cell means ('val', 'Training', ...); None if none."""
  for split, names in _SPLIT_NAMES.items():
    if text.strip().lower() in names:
      return split
  return None


def in_order(file: Path, ids: Mapping[int, str]) -> tuple[str, ...]:
  """Returns class names in the order of their official ids, which must be 0, 1, 2, ..."""
  wrong = sorted(set(ids) ^ set(range(len(ids))))
  if wrong or not ids:
    raise DataError(f'{file} must have one class per id from 0 on: {wrong[:3]} is missing or extra')
  return tuple(ids[i] for i in range(len(ids)))


def check(index: Index) -> None:
  """Refuses rows of unknown classes, and names that a manifest or a class file cannot hold.

  Raises:
    DataError: naming the annotation's file and line.
  """
  for head, names in index.classes.items():
    if not head or any(sign in head for sign in '/\\,'):
      raise DataError(f'{head!r} cannot name a head: use a word without "/", "\\" and ","')
    for name in names:
      if not name or not one_line(name):
        raise DataError(f'{name!r} cannot name a class of {head!r}: it must be one line of text')
  known = [set(names) for names in index.classes.values()]
  for row in index.rows:
    assert row.split in SPLITS
    for head, ids, cell in zip(index.classes, known, row.names, strict=True):
      for name in tags(cell) if index.multi_label else [cell]:
        if name not in ids:
          choices = nearest(name, index.classes[head])
          raise DataError(f'{row.where} {head}={name!r} is not one of the classes{choices}')
    if row.path is not None and not one_line(row.path):
      raise DataError(
        f'{row.where} {row.path!r} cannot stand in a manifest: rename the file, without line '
        'breaks and in UTF-8'
      )


def refuse_alike(where: str, names: Iterable[str]) -> None:
  """Refuses class names that differ in spaces only: one class, or two that nobody can tell apart.

  Raises:
    DataError: naming two of them.
  """
  seen: dict[str, str] = {}
  for name in sorted(names):
    other = seen.setdefault(' '.join(name.split()), name)
    if other != name:
      raise DataError(
        f'{where} has the classes {other!r} and {name!r}, which differ in spaces only: give them '
        'one name if they are one class, else two names'
      )


def shared(rows: Iterable[Annotation]) -> tuple[str, ...]:
  """Returns a note for each pair of splits that videos, which are there, stand in both of."""
  splits: dict[str, set[str]] = defaultdict(set)
  for row in rows:
    if row.path is not None:
      splits[row.path].add(row.split)
  notes = []
  for one, other in itertools.combinations(SPLITS, 2):
    both = [path for path, found in splits.items() if {one, other} <= found]
    if both:
      notes.append(
        f'{len(both):,} videos stand in both {one} and {other}, e.g. {both[0]!r}: scores on '
        f'{other} are too good where they show the same'
      )
  return tuple(notes)


def tags(cell: str) -> list[str]:
  """Returns the classes in a cell of a multi-label head."""
  return [name.strip() for name in cell.split(SEPARATOR)] if cell.strip() else []


def one_line(text: str) -> bool:
  """Returns whether a text file can hold `text` as one line."""
  try:
    text.encode()
  except UnicodeEncodeError:  # a file name of another encoding
    return False
  return len(text.splitlines()) == 1


SHARE = 0.2  # of the training videos of each class that become validation videos


def split_train_validation(rows: Iterable[Annotation]) -> list[Annotation]:
  """Moves SHARE of each class's training videos to validation, those of the lowest hash.

  The hash is of the path below the data's folder alone, so further videos move few others. All
  segments of one video stay together. A class of two or more videos has one in each split, except
  where a video that it shares with another class would have to be in both.
  """
  rows = list(rows)
  videos: dict[tuple[str, ...], set[str]] = defaultdict(set)
  for row in rows:
    if row.split == 'train' and row.path is not None:
      videos[row.names].add(row.path)
  chosen: set[str] = set()
  for _, paths in sorted(videos.items()):
    count = max(round(SHARE * len(paths)), 1) if len(paths) > 1 else 0
    already = len(paths & chosen)  # by another class, in some segment
    chosen |= set(sorted(paths - chosen, key=_place)[: max(count - already, 0)])
  for _, paths in sorted(videos.items()):
    if len(paths) > 1 and paths <= chosen:
      chosen.discard(max(paths, key=_place))
  return [
    dataclasses.replace(row, split='validation')
    if row.split == 'train' and row.path in chosen
    else row
    for row in rows
  ]


def _place(path: str) -> bytes:
  return hashlib.sha256(path.encode(errors='surrogateescape')).digest()


def found(folder: Path, *names: str) -> list[Path]:
  """Returns the files of one of these names in a folder, else those in folders directly in it."""
  here = [folder / name for name in names if (folder / name).is_file()]
  below = [place / name for place in subfolders(folder) for name in names]
  return here[:1] or [file for file in below if file.is_file()]


def locate(folder: Path, *names: str) -> Path:
  """Returns the one file of one of these names in a folder, or in a folder directly in it.

  Raises:
    DataError: where none or two folders have it.
  """
  files = found(folder, *names)
  if not files:
    raise DataError(f'{folder} has no {names[0]}, nor has a folder directly in it')
  if len(files) > 1:
    raise DataError(f'{files[0]} and {files[1]}: say which folder with --annotations=FOLDER')
  return files[0]


def subfolders(folder: Path) -> list[Path]:
  """Returns the folders directly in a folder, without hidden ones, sorted."""
  return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def read_lines(file: Path) -> list[tuple[str, str]]:
  """Returns ('file:line', stripped line) for each line that is not empty."""
  lines = enumerate(read_text(file).splitlines(), start=1)
  return [(f'{file}:{number}', line.strip()) for number, line in lines if line.strip()]


def clock(where: str, name: str, cell: str) -> str:
  """Returns 'HH:MM:SS.ss' as decimal seconds, exactly; raises DataError."""
  try:
    hours, minutes, seconds = (Decimal(part) for part in cell.strip().split(':'))
    total = hours * 3600 + minutes * 60 + seconds
    if not (total.is_finite() and min(hours, minutes, seconds) >= 0):
      raise ValueError
  except (ValueError, InvalidOperation):
    raise DataError(f'{where} {name}={cell!r} is not a time: need HH:MM:SS.ss') from None
  return str(total)


def whole_number(where: str, name: str, cell: str) -> int:
  """Returns a number >= 0 in a cell; raises DataError."""
  if not cell.strip().isdecimal():
    raise DataError(f'{where} {name}={cell!r} is not a whole number >= 0')
  return int(cell)
