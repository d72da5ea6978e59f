# SPDX-License-Identifier: Apache-2.0
"""Draws the way of the data through the folders of the package."""

# Run from the repository root: python experiments/folders.py [docs/images/folders.svg]

import sys
from pathlib import Path

from svg import BLUE, FAINT, INK, PALE, Drawing

PACKAGE = Path(__file__).parent.parent / 'vivit_jax'
WIDTH, HEIGHT, GAP = 150, 66, 52  # of a box and between two, pixels

# Folder or file of the package, what it does, and what it hands on.
TRAINING = (
  ('data/video/', 'decodes the frames', 'of one clip', 'frames'),
  ('data/augmentation/', 'crops, flips,', 'changes colors', 'clip'),
  ('data/pipeline.py', 'assembles batch k', 'from (seed, k)', 'batch'),
  ('model/', 'tokens, attention,', 'head', 'logits'),
  ('train/', 'loss, gradients,', 'update, log', 'state'),
)
TRAINED = (
  ('checkpoint/', 'saves and restores', 'whole states', 'params'),
  ('weights/', 'reads and writes', "other programs' files", 'params'),
  ('inference/', 'predicts, explains,', 'exports', ''),
  ('evaluate/', 'averages views,', 'writes the report', ''),
)
SHAPES = {
  'frames': '[F, h, w, 3]',
  'clip': '[F, H, W, 3]',
  'batch': '[B, F, H, W, 3]',
  'logits': '[B, classes]',
}


def box(page: Drawing, x: float, y: float, row: tuple[str, str, str, str]) -> None:
  """Draws one folder."""
  folder, *lines = row[:3]
  assert (PACKAGE / folder).exists(), folder
  page.box(x, y, WIDTH, HEIGHT, 'white', BLUE)
  page.text(x + WIDTH / 2, y + 20, folder, 12, INK, 'middle', bold=True, code=True)
  for k, line in enumerate(lines):
    page.text(x + WIDTH / 2, y + 38 + 16 * k, line, 12, anchor='middle')


def band(page: Drawing, y: float, folders: str, words: str) -> None:
  """Draws folders that everything above or below uses."""
  page.box(20, y, 958, 40, PALE, PALE)
  page.text(34, y + 25, folders, 12, INK, bold=True, code=True)
  page.text(330, y + 25, words, 12.5)


def draw_folders() -> Drawing:
  """Returns the figure."""
  page = Drawing(998, 430, 'Data go from video files through data, model and train to checkpoints')
  band(page, 16, 'cli/   api/   plan/', 'the commands, the Python names, and whether a step fits')
  y, step = 110, WIDTH + GAP
  page.text(20, 90, 'Training', 14, bold=True)
  for k, row in enumerate(TRAINING):
    x = 20 + k * step
    box(page, x, y, row)
    if k + 1 < len(TRAINING):
      page.arrow((x + WIDTH + 3, y + 33), (x + step - 3, y + 33))
      page.text(x + WIDTH + GAP / 2, y + 24, row[3], 11, FAINT, 'middle')
      page.text(x + WIDTH + GAP / 2, y - 8, SHAPES[row[3]], 10.5, FAINT, 'middle')
  below = 246
  page.text(20, below - 20, 'Trained', 14, bold=True)
  # From right to left, below the step that makes them.
  places = [20 + k * step for k in (4, 3, 2, 1)]
  for x, row in zip(places, TRAINED, strict=True):
    box(page, x, below, row)
  page.arrow((places[0] + 55, y + HEIGHT + 3), (places[0] + 55, below - 3))
  page.arrow((places[0] + 95, below - 3), (places[0] + 95, y + HEIGHT + 3))
  page.text(places[0] + 103, y + HEIGHT + 38, 'resumes', 11, FAINT)
  page.text(places[0] + 47, y + HEIGHT + 38, 'state', 11, FAINT, 'end')
  for left, right, words in ((1, 0, 'params'), (2, 1, 'model'), (3, 2, 'logits')):
    page.arrow((places[right] - 3, below + 33), (places[left] + WIDTH + 3, below + 33))
    page.text(places[right] - GAP / 2, below + 24, words, 11, FAINT, 'middle')
  page.box(20, below, 104, HEIGHT, 'none', FAINT, text=('report.html', 'report.json'), dashed=True)
  page.arrow((places[3] - 3, below + 33), (127, below + 33))
  band(page, 340, 'distributed/', 'the mesh of devices and hosts, on which all of the above runs')
  band(
    page, 388, 'config/   errors.py   files.py', 'every setting once, one-line errors, atomic files'
  )
  return page


if __name__ == '__main__':
  draw_folders().save(Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/images/folders.svg'))
