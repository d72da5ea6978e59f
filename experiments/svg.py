# SPDX-License-Identifier: Apache-2.0
"""Draws figures as SVG text: small files, the same bytes on every machine."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

INK, BLUE, PALE, EMPTY, EDGE = '#1d4f91', '#5b86c4', '#c9d9ee', '#f1f3f6', '#b4bdc9'
MARK, TEXT, FAINT = '#e4572e', '#22262d', '#5f6874'
FONT = 'Helvetica, Arial, Liberation Sans, sans-serif'
CODE = 'DejaVu Sans Mono, Menlo, Consolas, monospace'

Point = tuple[float, float]


class Drawing:
  """Shapes on a white page, in the order in which they are added; lengths in pixels."""

  def __init__(self, width: int, height: int, title: str):
    """Begins a page; readers of screens are given the title."""
    self._size, self._title = (width, height), title
    self._shapes: list[str] = []

  def polygons(self, shapes: Sequence[Sequence[Point]], fill: str, edge: str = EDGE):
    """Adds closed shapes that look alike."""
    paths = ('L'.join(f'{x:.1f} {y:.1f}' for x, y in points) for points in shapes)
    data = ''.join(f'M{path}z' for path in paths)
    self._shapes.append(f'<path d="{data}" fill="{fill}" stroke="{edge}" stroke-width="0.7"/>')

  def box(
    self, x: float, y: float, width: float, height: float, fill: str, edge: str = EDGE,
    text: Sequence[str] = (), color: str = TEXT, size: float = 12.5, round_by: float = 5,
    dashed: bool = False,
  ):  # fmt: skip
    """Adds a rectangle with lines of text in its middle."""
    dashes = ' stroke-dasharray="4 3"' if dashed else ''
    self._shapes.append(
      f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_by}" '
      f'fill="{fill}" stroke="{edge}"{dashes}/>'
    )
    line = 1.25 * size
    top = y + height / 2 - line * (len(text) - 1) / 2 + 0.35 * size
    for k, words in enumerate(text):
      self.text(x + width / 2, top + k * line, words, size, color, anchor='middle')

  def text(
    self, x: float, y: float, words: str, size: float = 12.5, color: str = TEXT,
    anchor: str = 'start', bold: bool = False, code: bool = False,
  ):  # fmt: skip
    """Adds a line of text; y is its base line."""
    weight = ' font-weight="bold"' if bold else ''
    family = f' font-family="{CODE}"' if code else ''
    self._shapes.append(
      f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}"'
      f'{weight}{family}>{html.escape(words)}</text>'
    )

  def arrow(self, start: Point, end: Point, color: str = FAINT):
    """Adds an arrow."""
    (x, y), (to_x, to_y) = start, end
    self._shapes.append(
      f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{color}" '
      'stroke-width="1.6" marker-end="url(#head)"/>'
    )

  def picture(self, x: float, y: float, width: float, height: float, pixels: np.ndarray):
    """Adds RGB pixels, uint8 [H, W, 3]."""
    found, data = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert found
    address = f'data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'
    self._shapes.append(
      f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
      f'href="{address}" preserveAspectRatio="none" image-rendering="optimizeSpeed"/>'
    )

  def save(self, file: Path):
    """Writes the page."""
    width, height = self._size
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
      f'viewBox="0 0 {width} {height}" font-family="{FONT}" role="img">',
      f'<title>{html.escape(self._title)}</title>',
      '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
      f'markerHeight="6" orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{FAINT}"/></marker>'
      '</defs>',
      f'<rect width="{width}" height="{height}" fill="white"/>',
      *self._shapes,
      '</svg>',
    ]
    file.write_text('\n'.join(lines) + '\n')
