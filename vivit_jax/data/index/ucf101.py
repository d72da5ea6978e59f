# SPDX-License-Identifier: Apache-2.0
"""UCF101: three train/test splits, with one `<class>/v_<class>_g01_c01.avi` per line.

trainlist01.txt also has the class number, counted from 1; classInd.txt has `<number> <class>`.
There are no validation videos, so the test videos of the split are used as validation.csv, as is
common.
"""

from pathlib import Path, PurePosixPath

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
from vivit_jax.errors import DataError

NEEDS = 'classInd.txt, trainlist01.txt and testlist01.txt'


def find(folder: Path) -> bool:
  """Returns whether a folder or a direct subfolder has the list of classes."""
  return bool(found(folder, 'classInd.txt'))


def read(folder: Path, videos: VideoFiles, division: int = 1) -> Index:
  """Returns the videos of one of the official splits 1 to 3 (`division`)."""
  index = locate(folder, 'classInd.txt')
  numbers = {}
  for where, line in read_lines(index):
    number, _, name = line.partition(' ')
    numbers[whole_number(where, 'class', number) - 1] = name.strip()
  classes = in_order(index, numbers)
  lists = [index.parent / f'{name}list{division:02d}.txt' for name in ('train', 'test')]
  rows = []
  for file, split in zip(lists, ('train', 'validation'), strict=True):
    for where, line in read_lines(file):
      path, _, number = line.partition(' ')
      name = PurePosixPath(path).parts[0]
      if number and numbers.get(whole_number(where, 'class', number) - 1) != name:
        raise DataError(
          f'{where} {path} is of class {name!r} by its folder, which is not class {number} in '
          f'{index.name}: download the annotations again'
        )
      rows.append(Annotation(split, videos.find(path, split), (name,), path, where))
  note = f'{lists[1].name} is validation.csv: UCF101 has no validation videos of its own'
  return Index(tuple(rows), {'label': classes}, notes=(note,), inputs=(index, *lists))
