# SPDX-License-Identifier: Apache-2.0
"""Where each parameter of an initialized model comes from, and the table that says so."""

import dataclasses
import re
import typing
from typing import Literal

from vivit_jax.errors import printable

Origin = Literal['taken', 'resized', 'fresh', 'left over']


@dataclasses.dataclass(frozen=True)
class ParameterOrigin:
  """Where one parameter of a model comes from.

  Attributes:
    origin: `taken` unchanged, `resized` (or otherwise changed; see `note`), `fresh` if the model's
      own initial value stays, `left over` for a parameter of the source that is not used.
    name: in the model; if left over, in the source.
    source_name: in the source; if left over, the model's nearest name, if one is near.
    shape: in the model; if left over, in the source.
    source_shape: in the source.
    note: what was done, or why nothing was.
  """

  origin: Origin
  name: str
  source_name: str | None
  shape: tuple[int, ...]
  source_shape: tuple[int, ...] | None = None
  note: str = ''


def format_table(rows: list[ParameterOrigin]) -> str:
  """Returns one line per group of parameters of the same origin: blocks and leaves are folded."""
  groups: dict[tuple[str, ...], list[ParameterOrigin]] = {}
  for row in rows:
    key = (row.origin, _group(row.name), _group(row.source_name or ''), row.note)
    groups.setdefault(key, []).append(row)
  lines = [_line(members) for members in groups.values()]
  counts = {origin: sum(row.origin == origin for row in rows) for origin in typing.get_args(Origin)}
  lines = [printable(line) for line in lines]  # names and notes come from a file
  return '\n'.join([*lines, ', '.join(f'{count} {origin}' for origin, count in counts.items())])


_BLOCK = re.compile(r'(\w+)/block_([0-9]+)/([^/]+)')


def _line(rows: list[ParameterOrigin]) -> str:
  first = rows[0]
  name, source_name = (
    _described([text or '' for text in texts])
    for texts in ([row.name for row in rows], [row.source_name for row in rows])
  )
  text = f'{first.origin:9} {name}'
  if first.origin == 'left over':
    text += f'; nearest: {source_name}' if source_name else ''
  elif source_name and source_name != name:
    text += f' from {source_name}'
  if first.origin == 'resized' and len(rows) == 1:
    text += f' {first.source_shape} -> {first.shape}'
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
