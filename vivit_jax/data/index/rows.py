# SPDX-License-Identifier: Apache-2.0
"""What every reader of annotations returns: videos, their classes and where that stands."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from vivit_jax.config_parse import nearest
from vivit_jax.data.manifest import SEPARATOR, SPLITS
from vivit_jax.errors import DataError

_SPLIT_NAMES = {
  'train': ('train', 'training'),
  'validation': ('validation', 'val', 'valid', 'validate'),
  'test': ('test', 'testing'),
}


@dataclasses.dataclass(frozen=True)
class Row:
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

  rows: tuple[Row, ...]
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


def shared(rows: Iterable[Row]) -> tuple[str, ...]:
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
