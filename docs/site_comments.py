# SPDX-License-Identifier: Apache-2.0
"""A Griffe extension: comments at the fields of a dataclass are their documentation."""

from pathlib import Path
from typing import Any

import griffe


class Comments(griffe.Extension):
  """Gives fields the comment behind them, or above them, as the settings of config/ have it."""

  def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
    """Is called for each attribute that Griffe finds."""
    if attr.docstring is None and attr.lineno and isinstance(attr.filepath, Path):
      lines = attr.filepath.read_text().splitlines()
      text = comment(lines, attr.lineno - 1, (attr.endlineno or attr.lineno) - 1)
      if text:
        attr.docstring = griffe.Docstring(text, parent=attr)


def comment(lines: list[str], first: int, last: int) -> str:
  """Returns the comment of the statement in lines `first` to `last`, counted from 0."""
  behind = lines[last].partition('  # ')[2]
  above: list[str] = []
  while first > 0 and lines[first - 1].strip().startswith('# '):
    first -= 1
    above.insert(0, lines[first].strip().removeprefix('# '))
  return ' '.join([*above, behind]).strip()
