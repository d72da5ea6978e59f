# SPDX-License-Identifier: Apache-2.0
"""Common result type of all annotation readers, and code that they share.

The shared code finds annotation files, parses times, and splits off validation videos
deterministically if the data set has none.
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
  """One labeled video or segment."""

  split: str  # one of SPLITS
  path: str | None  # relative to the video folder, separated by '/'; None = missing
  names: tuple[str, ...]  # class name per head; multi-label names are joined by SEPARATOR
  wanted: str  # name of the video in the annotations
  where: str  # 'file:line' of the annotation, for messages
  start: float | None = None  # seconds after the first frame; see manifest.Video
  end: float | None = None


@dataclasses.dataclass(frozen=True)
class Index:
  """All annotations of a data set."""

  rows: tuple[Annotation, ...]
  classes: dict[str, tuple[str, ...]]  # class names per head, by class id
  multi_label: bool = False
  notes: tuple[str, ...] = ()  # omissions and decisions, one line each
  inputs: tuple[Path, ...] = ()  # annotation files, which must not be overwritten


def split_name(text: str) -> str | None:
  """Returns the split named by a folder or cell ('val', 'Training', ...), or None."""
  for split, names in _SPLIT_NAMES.items():
    if text.strip().lower() in names:
      return split
  return None


def in_order(file: Path, ids: Mapping[int, str]) -> tuple[str, ...]:
  """Returns class names by official id; the ids must be 0, 1, 2, ..."""
  wrong = sorted(set(ids) ^ set(range(len(ids))))
  if wrong or not ids:
    raise DataError(f'{file} must have one class per id from 0 on: {wrong[:3]} missing or extra')
  return tuple(ids[i] for i in range(len(ids)))


def check(index: Index) -> None:
  """Rejects unknown classes, and names that cannot be written to a manifest or class file.

  Raises:
    DataError: names the annotation's file and line.
  """
  for head, names in index.classes.items():
    if not head or any(sign in head for sign in '/\\,'):
      raise DataError(f'{head!r} is not a valid head name: use a word without "/", "\\" and ","')
    for name in names:
      if not name or not one_line(name):
        raise DataError(f'{name!r} is not a valid class of {head!r}: it must be one line of text')
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
        f'{row.where} {row.path!r} cannot be written to a manifest: rename the file, in UTF-8 '
        'and without line breaks'
      )


def refuse_alike(where: str, names: Iterable[str]) -> None:
  """Rejects class names that differ only in spaces, since they may be meant as one class.

  Raises:
    DataError: names two of them.
  """
  seen: dict[str, str] = {}
  for name in sorted(names):
    other = seen.setdefault(' '.join(name.split()), name)
    if other != name:
      raise DataError(
        f'{where} has the classes {other!r} and {name!r}, which differ only in spaces: give them '
        'the same name if they are one class, otherwise different names'
      )


def shared(rows: Iterable[Annotation]) -> tuple[str, ...]:
  """Returns a note for each pair of splits that have existing videos in common."""
  splits: dict[str, set[str]] = defaultdict(set)
  for row in rows:
    if row.path is not None:
      splits[row.path].add(row.split)
  notes = []
  for one, other in itertools.combinations(SPLITS, 2):
    both = [path for path, found in splits.items() if {one, other} <= found]
    if both:
      notes.append(
        f'{len(both):,} videos are in both {one} and {other}, e.g. {both[0]!r}: scores on '
        f'{other} may be too high'
      )
  return tuple(notes)


def tags(cell: str) -> list[str]:
  """Returns the class names in a cell of a multi-label head."""
  return [name.strip() for name in cell.split(SEPARATOR)] if cell.strip() else []


def one_line(text: str) -> bool:
  """Returns whether `text` can be written as one line of a text file."""
  try:
    text.encode()
  except UnicodeEncodeError:  # a file name in another encoding
    return False
  return len(text.splitlines()) == 1


SHARE = 0.2  # of the training videos of each class are used for validation


def split_train_validation(rows: Iterable[Annotation]) -> list[Annotation]:
  """Moves SHARE of each class's training videos to validation: those with the lowest hashes.

  The hash depends only on the path relative to the data folder, so adding videos moves few others.
  All segments of one video stay together. A class with two or more videos has at least one in each
  split, unless a video that it shares with another class prevents it.
  """
  rows = list(rows)
  videos: dict[tuple[str, ...], set[str]] = defaultdict(set)
  for row in rows:
    if row.split == 'train' and row.path is not None:
      videos[row.names].add(row.path)
  chosen: set[str] = set()
  for _, paths in sorted(videos.items()):
    count = max(round(SHARE * len(paths)), 1) if len(paths) > 1 else 0
    already = len(paths & chosen)  # chosen for another class, with some segment
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
  """Returns the files with one of these names in a folder, or else in its direct subfolders."""
  here = [folder / name for name in names if (folder / name).is_file()]
  below = [place / name for place in subfolders(folder) for name in names]
  return here[:1] or [file for file in below if file.is_file()]


def locate(folder: Path, *names: str) -> Path:
  """Returns the single file with one of these names in a folder or its direct subfolders.

  Raises:
    DataError: no folder or several folders have it.
  """
  files = found(folder, *names)
  if not files:
    raise DataError(f'{folder} and its direct subfolders have no {names[0]}')
  if len(files) > 1:
    raise DataError(f'{files[0]} and {files[1]}: choose a folder with --annotations=FOLDER')
  return files[0]


def subfolders(folder: Path) -> list[Path]:
  """Returns the direct subfolders of a folder, sorted, without hidden ones."""
  return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def read_lines(file: Path) -> list[tuple[str, str]]:
  """Returns ('file:line', stripped line) for each non-empty line."""
  lines = enumerate(read_text(file).splitlines(), start=1)
  return [(f'{file}:{number}', line.strip()) for number, line in lines if line.strip()]


def clock(where: str, name: str, cell: str) -> str:
  """Converts 'HH:MM:SS.ss' to decimal seconds exactly; raises DataError."""
  try:
    hours, minutes, seconds = (Decimal(part) for part in cell.strip().split(':'))
    total = hours * 3600 + minutes * 60 + seconds
    if not (total.is_finite() and min(hours, minutes, seconds) >= 0):
      raise ValueError
  except (ValueError, InvalidOperation):
    raise DataError(f'{where} {name}={cell!r} is not a time: need HH:MM:SS.ss') from None
  return str(total)


def whole_number(where: str, name: str, cell: str) -> int:
  """Returns the whole number >= 0 in a cell; raises DataError."""
  if not cell.strip().isdecimal():
    raise DataError(f'{where} {name}={cell!r} is not a whole number >= 0')
  return int(cell)
