# SPDX-License-Identifier: Apache-2.0
"""One's own videos in one CSV file.

    path,label[,start][,end][,split]

`path` is relative to the file's folder, `start` and `end` are seconds, `split` is train, validation
or test; without it the videos are divided. Every other column is a head of the task; where a cell
has several names, separated by '|', the column is multi-label. Ids are alphabetical.
"""

from pathlib import Path

from vivit_jax.data.index.divide import SHARE, divide
from vivit_jax.data.index.rows import Index, Row, refuse_alike, split_name, tags
from vivit_jax.data.index.tables import read_table
from vivit_jax.data.manifest import SEPARATOR, check_path, parse_span
from vivit_jax.errors import DataError

_OURS = ('path', 'start', 'end', 'split')


def read(file: Path) -> Index:
  """Returns the videos that a CSV file lists; raises DataError naming file and line."""
  table = read_table(file, ('path',))
  heads = [name for name in (table[0][1] if table else ()) if name not in _OURS]
  if not heads:
    raise DataError(f'{file} has no column of class names: give one beside path, e.g. path,label')
  multi_label = any(SEPARATOR in cells[head] for _, cells in table for head in heads)
  if multi_label and len(heads) > 1:
    raise DataError(f'{file}: a multi-label CSV has one column of classes, not {heads}')
  rows = []
  for where, cells in table:
    path = cells['path']
    check_path(where, path, file.parent)
    split = split_name(cells['split']) if 'split' in cells else 'train'
    if split is None:
      raise DataError(f'{where} split={cells["split"]!r} is not train, validation or test')
    for head in heads:
      if not cells[head].strip() and not multi_label:
        raise DataError(f'{where} {head} is empty: give the name of a class')
    there = path if (file.parent / path).is_file() else None
    start, end = parse_span(where, cells.get('start'), cells.get('end'))
    names = tuple(cells[head].strip() for head in heads)
    rows.append(Row(split, there, names, path, where, start, end))
  spaced = [where for where, cells in table if any(cells[h] != cells[h].strip() for h in heads)]
  notes = []
  if spaced:
    notes.append(
      f'{len(spaced):,} rows have spaces around classes, which are cut, e.g. {spaced[0]}'
    )
  if 'split' not in table[0][1]:
    rows = divide(rows)
    notes.append(
      f'no split column: validation has {SHARE:.0%} of each class, by the hash of the path'
    )
  classes = {}
  for i, head in enumerate(heads):
    cells_of = [tags(row.names[i]) if multi_label else [row.names[i]] for row in rows]
    refuse_alike(f'{file} {head}', {name for names in cells_of for name in names})
    classes[head] = tuple(sorted({name for names in cells_of for name in names}))
  return Index(tuple(rows), classes, multi_label, tuple(notes), (file,))
