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
  """Origin of one parameter.

  Attributes:
    origin: `taken` = copied unchanged; `resized` = resized or otherwise changed, see `note`;
      `fresh` = keeps the model's initial value; `left over` = unused parameter of the source.
    name: name in the model; for `left over`, in the source.
    source_name: name in the source; for `left over`, the most similar name in the model, if any.
    shape: shape in the model; for `left over`, in the source.
    source_shape: shape in the source.
    note: what was changed, or why the parameter was not loaded.
  """

  origin: Origin
  name: str
  source_name: str | None
  shape: tuple[int, ...]
  source_shape: tuple[int, ...] | None = None
  note: str = ''


def format_table(rows: list[ParameterOrigin]) -> str:
  """Returns one line per group of parameters with the same origin, merging blocks and leaves."""
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
  """Returns the group of a parameter: a stage's blocks, a layer, or the parameter itself."""
  if match := _BLOCK.match(name):
    return f'{match[1]}/block'
  return re.sub(r'/(kernel|bias|scale)$', '', name)


def _described(names: list[str]) -> str:
  """Returns a summary of the names in a group, e.g. 'spacetime/block_0..11: attention, mlp'."""
  matches = [match for name in names if (match := _BLOCK.match(name))]
  if len(matches) != len(names):
    return names[0] if len(names) == 1 else _group(names[0])
  numbers = [int(match[2]) for match in matches]
  low, high = min(numbers), max(numbers)
  span = str(low) if low == high else f'{low}..{high}'
  layers = dict.fromkeys(match[3] for match in matches)
  return f'{matches[0][1]}/block_{span}: {", ".join(layers)}'
