# SPDX-License-Identifier: Apache-2.0
"""Markdown tables that are also readable on a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
  """Returns a Markdown table; the first column is text, the others are numbers."""
  cells = [list(map(str, line)) for line in (head, *lines)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  cells.insert(1, ['-' * widths[0], *('-' * max(1, width - 1) + ':' for width in widths[1:])])
  text = ''
  for line in cells:
    padded = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
    text += f'| {" | ".join(padded)} |\n'
  return text
