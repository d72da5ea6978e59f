# SPDX-License-Identifier: Apache-2.0
"""Draws a video, its tokens and the four models, with what their B/16x2 cost."""

# Run from the repository root: python experiments/architecture.py [docs/images/models.svg]

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cost import cost
from svg import BLUE, EDGE, EMPTY, FAINT, INK, MARK, PALE, TEXT, Drawing
from vivit_jax.config.schema import MovingDigits
from vivit_jax.data.moving_digits import digit_videos, draw

GRID = (4, 5, 5)  # T, H, W in tokens, of 8 frames of 40 x 40 pixels
TOKEN = (1, 2, 2)  # the one whose attention is shown
COLUMN, TOP = 262, 262  # pixels
SPATIAL, TEMPORAL, BOTH, MLP = '#dce8f7', '#fbe6d9', '#e4f1e4', '#f1f3f6'

Cell = tuple[int, int, int]


def space(cell: Cell) -> bool:
  """Whether a token is in the frame of the one shown."""
  return cell[0] == TOKEN[0]


def time(cell: Cell) -> bool:
  """Whether a token is at the place of the one shown."""
  return cell[1:] == TOKEN[1:]


# Name, setting, which tokens one block connects, and, of two attentions, through another token.
MODELS: tuple[tuple[str, str, Callable[[Cell], bool], Callable[[Cell], bool]], ...] = (
  ('1  Spatio-temporal', 'spatio_temporal', lambda cell: True, space),
  ('2  Factorised encoder', 'factorised_encoder', space, space),
  (
    '3  Factorised self-attention',
    'factorised_self_attention',
    lambda cell: space(cell) or time(cell),
    lambda cell: True,
  ),
  (
    '4  Factorised dot-product',
    'factorised_dot_product',
    lambda cell: space(cell) or time(cell),
    space,
  ),
)
CAPTIONS = (
  ('A token attends to all tokens', 'of all frames.'),
  ('A token attends to its frame; then', 'one vector a frame attends to all.'),
  ('A token attends to its frame, then', 'to its place in all frames.'),
  ('Half of the heads attend to the frame,', 'half to the place in all frames.'),
)


def tokens(page: Drawing, x: float, y: float, side: float, color: Callable[[Cell], str]) -> None:
  """Draws the token grid as a row of tilted frames, time to the right."""
  times, rows, columns = GRID
  squeeze, slant, gap = 0.62, 0.36, 1.0  # of a token's side

  def corner(t: float, h: float, w: float) -> tuple[float, float]:
    left = t * (columns * squeeze + gap) + w * squeeze
    return x + side * left, y + side * (h + (columns - w) * slant)

  cells: dict[str, list[list[tuple[float, float]]]] = {}
  for t, h, w in np.ndindex(times, rows, columns):
    ends = ((h, w), (h, w + 1), (h + 1, w + 1), (h + 1, w))
    cells.setdefault(color((t, h, w)), []).append([corner(t, *end) for end in ends])
  for fill, shapes in cells.items():
    page.polygons(shapes, fill)


def frames() -> np.ndarray:
  """Returns 8 frames of 40 x 40 pixels of a digit that moves to the right."""
  videos = digit_videos(MovingDigits(), 'train')
  sample = next(v for v in videos if v.verb == 'right' and v.noun == '3')
  return draw(sample)[0:16:2, 4:44, 8:48]


def video_to_tokens(page: Drawing) -> None:
  """Draws the upper row: frames, one tubelet, tokens."""
  clip = frames()
  page.text(20, 30, 'Video', 16, bold=True)
  page.text(20, 50, '32 frames of 224 x 224 pixels', color=FAINT)
  for k in range(7, -1, -1):
    x, y = 24 + 17 * k, 118 - 7 * k
    page.picture(x, y, 96, 96, clip[k])
    page.box(x, y, 96, 96, 'none', 'white', round_by=0)
  page.arrow((252, 150), (312, 150))

  page.text(330, 30, 'Tubelets', 16, bold=True)
  page.text(330, 50, 'each 2 frames of 16 x 16 pixels', color=FAINT)
  for k in (1, 0):
    x, y = 334 + 34 * k, 100 - 16 * k
    page.picture(x, y, 120, 120, clip[2 + k])
    lines = [[(x + 24 * n, y), (x + 24 * n, y + 120)] for n in range(6)]
    lines += [[(x, y + 24 * n), (x + 120, y + 24 * n)] for n in range(6)]
    page.polygons(lines, 'none', 'white')
    page.box(x + 48, y + 48, 24, 24, 'none', MARK, round_by=0)
    page.box(x + 49, y + 49, 22, 22, 'none', MARK, round_by=0)
  page.arrow((500, 150), (612, 150))
  page.text(556, 126, 'linear', 12.5, FAINT, 'middle')
  page.text(556, 141, 'projection', 12.5, FAINT, 'middle')
  page.text(556, 169, '+ position', 12.5, FAINT, 'middle')

  page.text(632, 30, 'Tokens  [T, S, D]', 16, bold=True)
  page.text(632, 50, 'T = 16 times, S = 14 x 14 places, D = 768', color=FAINT)
  tokens(page, 640, 76, 22, lambda cell: MARK if cell == TOKEN else PALE)
  page.text(1030, 236, 'drawn smaller: 4 x 5 x 5', 11.5, FAINT, 'end')


def chain(page: Drawing, x: float, model: int) -> None:
  """Draws the blocks of a model from its tokens to its head."""
  y, width = TOP + 200, 218

  def block(rows: list[tuple[str, str]], times: str, note: str = '') -> None:
    nonlocal y
    height = 30 * len(rows) + 10
    page.box(x, y, width, height, 'white', FAINT, dashed=True)
    for k, (words, fill) in enumerate(rows):
      if '|' in words:
        for j, (part, color) in enumerate(zip(words.split('|'), (SPATIAL, TEMPORAL), strict=True)):
          page.box(x + 6 + 81 * j, y + 6 + 30 * k, 78, 26, color, text=(part,), size=12)
      else:
        page.box(x + 6, y + 6 + 30 * k, 159, 26, fill, text=(words,), size=12)
    page.text(x + 192, y + height / 2 - 3, times, 14, INK, 'middle', bold=True)
    page.text(x + 192, y + height / 2 + 12, 'blocks', 11, FAINT, 'middle')
    y += height
    page.arrow((x + 86, y), (x + 86, y + 22))
    if note:
      page.text(x + 94, y + 16, note, 11.5, FAINT)
    y += 24

  spatial, temporal, mlp = ('attention in space', SPATIAL), ('attention in time', TEMPORAL), 'MLP'
  if model == 0:
    block([('attention, all tokens', BOTH), (mlp, MLP)], 'x 12', 'cls token')
  if model == 1:
    block([spatial, (mlp, MLP)], 'x 12', 'cls token of each frame')
    block([temporal, (mlp, MLP)], 'x 4', 'cls token')
  if model == 2:
    block([spatial, temporal, (mlp, MLP)], 'x 12', 'mean')
  if model == 3:
    block([('in space|in time', BOTH), (mlp, MLP)], 'x 12', 'mean')
  page.box(x + 6, y, 159, 26, INK, INK, text=('head: classes',), color='white', size=12)


def draw_models() -> Drawing:
  """Returns the figure."""
  page = Drawing(
    4 * COLUMN + 8, 722,
    'A video is cut into tubelets, which become tokens; four models attend to them differently',
  )  # fmt: skip
  video_to_tokens(page)
  for k, (title, setting, near, far) in enumerate(MODELS):
    x = 20 + k * COLUMN
    page.text(x, TOP, title, 16, bold=True)
    page.text(x, TOP + 19, setting, 11.5, FAINT, code=True)

    def color(cell: Cell, near: Callable = near, far: Callable = far) -> str:
      if cell == TOKEN:
        return MARK
      return BLUE if near(cell) else PALE if far(cell) else EMPTY

    tokens(page, x, TOP + 34, 13.4, color)
    if setting == 'factorised_encoder':
      for t in range(GRID[0]):
        fill = MARK if t == TOKEN[0] else BLUE
        page.box(x + 14 + 55 * t, TOP + 134, 14, 14, fill, EDGE, round_by=0)
    for j, line in enumerate(CAPTIONS[k]):
      page.text(x, TOP + 167 + 16 * j, line, 12.5, TEXT)
    chain(page, x, k)
    price = cost('B/16x2' if k == 0 else f'B/16x2,{setting}')
    page.text(
      x, 706, f'{price.parameters / 1e6:.1f} M parameters, {price.gflops:.1f} GFLOPs', 12.5, INK,
      bold=True,
    )  # fmt: skip
  return page


if __name__ == '__main__':
  draw_models().save(Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/images/models.svg'))
