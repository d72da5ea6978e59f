# SPDX-License-Identifier: Apache-2.0
"""Epic-Kitchens-100: segments of long videos, each with a verb and a noun.

EPIC_100_train.csv and EPIC_100_validation.csv have a video name (`P01_01` for P01_01.MP4, in any
folder), start and stop as HH:MM:SS.ss, and the ids of verb and noun. The class names are in
EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv. An action is a verb and a noun together:
`--config.task.joint=action`. The labels of the test set are not public.
"""

from pathlib import Path

from vivit_jax.data.index.annotations import (
  Annotation,
  Index,
  clock,
  found,
  in_order,
  locate,
  whole_number,
)
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.data.manifest import parse_span
from vivit_jax.data.tables import read_table
from vivit_jax.errors import DataError

NEEDS = 'EPIC_100_train.csv or EPIC_100_validation.csv, EPIC_100_verb_classes.csv, ...noun...'
_SPLITS = ('EPIC_100_train.csv', 'EPIC_100_validation.csv')
_COLUMNS = ('video_id', 'start_timestamp', 'stop_timestamp', 'verb_class', 'noun_class')


def find(folder: Path) -> bool:
  """Returns whether a folder or a direct subfolder has one of the lists of segments."""
  return bool(found(folder, *_SPLITS))


def read(folder: Path, videos: VideoFiles) -> Index:
  """Returns the training and validation segments, with the heads `verb` and `noun`."""
  place = locate(folder, 'EPIC_100_verb_classes.csv').parent
  tables = {head: place / f'EPIC_100_{head}_classes.csv' for head in ('verb', 'noun')}
  classes = {head: _classes(file) for head, file in tables.items()}
  rows, inputs = [], [*tables.values()]
  for split, name in zip(('train', 'validation'), _SPLITS, strict=True):
    if (place / name).is_file():
      inputs.append(place / name)
      for where, cells in read_table(place / name, _COLUMNS):
        start = clock(where, 'start_timestamp', cells['start_timestamp'])
        end = clock(where, 'stop_timestamp', cells['stop_timestamp'])
        names = tuple(
          _name(where, f'{head}_class', cells[f'{head}_class'], known)
          for head, known in classes.items()
        )
        video = cells['video_id'].strip()
        path = videos.find(video, split)
        rows.append(
          Annotation(split, path, names, f'{video}.MP4', where, *parse_span(where, start, end))
        )
  if not rows:
    raise DataError(f'{place} has neither {_SPLITS[0]} nor {_SPLITS[1]}')
  return Index(tuple(rows), classes, inputs=tuple(inputs))


def _classes(file: Path) -> tuple[str, ...]:
  table = read_table(file, ('id', 'key'))
  ids = {whole_number(where, 'id', cells['id']): cells['key'].strip() for where, cells in table}
  return in_order(file, ids)


def _name(where: str, column: str, cell: str, classes: tuple[str, ...]) -> str:
  number = whole_number(where, column, cell)
  if number >= len(classes):
    raise DataError(f'{where} {column}={number} is not one of the {len(classes)} classes')
  return classes[number]
