# SPDX-License-Identifier: Apache-2.0
"""What became of every parameter when a model was initialised from another, as data and as text."""

import dataclasses
import re
import typing
from typing import Literal

from vivit_jax.errors import printable

Fate = Literal['taken', 'resized', 'fresh', 'left over']


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter.

  Attributes:
    fate: `taken` unchanged, `resized` (or otherwise changed; see `note`), `fresh` where the model's
      own initial value stays, `left over` for one of the source that nothing took.
    name: in the model; of a left over one, in the source.
    origin: in the source; of a left over one the model's nearest name, if one is near.
    shape: in the model; of a left over one, in the source.
    origin_shape: in the source.
    note: what was done, or why not.
  """

  fate: Fate
  name: str
  origin: str | None
  shape: tuple[int, ...]
  origin_shape: tuple[int, ...] | None = None
  note: str = ''


def format_table(rows: list[Row]) -> str:
  """Returns one line per group of parameters that fared alike: blocks and leaves are folded."""
  groups: dict[tuple[str, ...], list[Row]] = {}
  for row in rows:
    key = (row.fate, _group(row.name), _group(row.origin or ''), row.note)
    groups.setdefault(key, []).append(row)
  lines = [_line(members) for members in groups.values()]
  counts = {fate: sum(row.fate == fate for row in rows) for fate in typing.get_args(Fate)}
  lines = [printable(line) for line in lines]  # names and notes come from a file
  return '\n'.join([*lines, ', '.join(f'{count} {fate}' for fate, count in counts.items())])


_BLOCK = re.compile(r'(\w+)/block_([0-9]+)/([^/]+)')


def _line(rows: list[Row]) -> str:
  first = rows[0]
  name, origin = (
    _described([text or '' for text in texts])
    for texts in ([row.name for row in rows], [row.origin for row in rows])
  )
  text = f'{first.fate:9} {name}'
  if first.fate == 'left over':
    text += f'; nearest: {origin}' if origin else ''
  elif origin and origin != name:
    text += f' from {origin}'
  if first.fate == 'resized' and len(rows) == 1:
    text += f' {first.origin_shape} -> {first.shape}'
  return text + (f' ({first.note})' if first.note else '')


def _group(name: str) -> str:
  """Returns what a line covers: a stage's blocks, a layer, or a lone parameter."""
  if match := _BLOCK.match(name):
    return f'{match[1]}/block'
  return re.sub(r'/(kernel|bias|scale)$', '', name)


def _described(names: list[str]) -> str:
  """Returns one text for the names of a group, e.g. 'spacetime/block_0..11: attention, mlp'."""
  matches = [match for name in names if (match := _BLOCK.match(name))]
  if len(matches) != len(names):
    return names[0] if len(names) == 1 else _group(names[0])
  numbers = [int(match[2]) for match in matches]
  low, high = min(numbers), max(numbers)
  span = str(low) if low == high else f'{low}..{high}'
  layers = dict.fromkeys(match[3] for match in matches)
  return f'{matches[0][1]}/block_{span}: {", ".join(layers)}'
