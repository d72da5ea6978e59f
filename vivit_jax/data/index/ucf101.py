# SPDX-License-Identifier: Apache-2.0
"""UCF101: three divisions into train and test, `<class>/v_<class>_g01_c01.avi` a line.

trainlist01.txt adds the number of the class, counted from 1; classInd.txt has `<number> <class>`.
There are no validation videos, so the division's test videos are validation.csv, as is usual.
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
  """Returns whether a folder, or one directly in it, has the list of classes."""
  return bool(found(folder, 'classInd.txt'))


def read(folder: Path, videos: VideoFiles, division: int = 1) -> Index:
  """Returns the videos of one of the divisions 1 to 3."""
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
        raise DataError(f'{where} {path} is of class {name!r}, not {number} of {index.name}')
      rows.append(Annotation(split, videos.find(path, split), (name,), path, where))
  note = f'{lists[1].name} is validation.csv: UCF101 has no validation videos of its own'
  return Index(tuple(rows), {'label': classes}, notes=(note,), inputs=(index, *lists))
