# SPDX-License-Identifier: Apache-2.0
"""Moments in Time: CSV files without header, `<class>/<file>.mp4,<label>,<votes for>,<against>`.

The videos of trainingSet.csv are in training/, those of validationSet.csv in validation/.
moments_categories.txt has the class ids, `<label>,<id>`.
"""

from pathlib import Path

from vivit_jax.data.index.annotations import (
  Annotation,
  Index,
  found,
  in_order,
  locate,
  read_lines,
  whole_number,
)
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.data.tables import read_table
from vivit_jax.errors import DataError

NEEDS = 'moments_categories.txt with trainingSet.csv or validationSet.csv'
_SPLITS = {'train': 'trainingSet.csv', 'validation': 'validationSet.csv'}


def find(folder: Path) -> bool:
  """Returns whether a folder or a direct subfolder has the list of classes."""
  return bool(found(folder, 'moments_categories.txt'))


def read(folder: Path, videos: VideoFiles) -> Index:
  """Returns the rows of the CSV files."""
  categories = locate(folder, 'moments_categories.txt')
  ids = {}
  for where, line in read_lines(categories):
    name, comma, number = line.rpartition(',')
    if not comma:
      raise DataError(f'{where} {line!r} is not <label>,<id>')
    ids[whole_number(where, 'id', number)] = name.strip()
  rows, inputs = [], [categories]
  for split, name in _SPLITS.items():
    file = categories.parent / name
    if file.is_file():
      inputs.append(file)
      for where, cells in read_table(file, (), columns=('path', 'label')):
        path = cells['path'].strip()
        label = cells['label'].strip()
        rows.append(Annotation(split, videos.find(path, split), (label,), path, where))
  if not rows:
    raise DataError(f'{categories.parent} has neither {" nor ".join(_SPLITS.values())}')
  return Index(tuple(rows), {'label': in_order(categories, ids)}, inputs=tuple(inputs))
