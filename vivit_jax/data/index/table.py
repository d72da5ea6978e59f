# SPDX-License-Identifier: Apache-2.0
"""The table that says what a data set has, split by split, and what it lacks."""

from vivit_jax.data.index.rows import Index, shared, tags
from vivit_jax.data.manifest import SPLITS
from vivit_jax.errors import printable

_SHOWN = 5


def as_table(index: Index) -> str:
  """Returns one line per split and head: videos, missing ones, classes, those without a video."""
  head_width = max(map(len, index.classes))
  title = f'{"split":12}{"videos":>10}{"missing":>10}  {"head":{head_width}}{"classes":>10}'
  lines = [f'{title}  without a video']
  for split in SPLITS:
    rows = [row for row in index.rows if row.split == split]
    if not rows:
      continue
    found = [row for row in rows if row.path is not None]
    start = f'{split:12}{len(found):10,}{len(rows) - len(found):10,}'
    for i, (head, names) in enumerate(index.classes.items()):
      cells = (row.names[i] for row in found)
      seen = {name for cell in cells for name in (tags(cell) if index.multi_label else [cell])}
      empty = [name for name in names if name not in seen]
      shown = ', '.join(empty[:_SHOWN]) + (', ...' if len(empty) > _SHOWN else '')
      without = f'{len(empty)}: {shown}' if empty else '-'
      lines.append(f'{start}  {head:{head_width}}{len(names):10,}  {without}')
      start = ' ' * 32
  return '\n'.join(map(printable, [*lines, *index.notes, *shared(index.rows)]))
