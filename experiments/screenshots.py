# SPDX-License-Identifier: Apache-2.0
"""Takes the pictures of docs/: a report, a timeline and an attention map of a trained run."""

# Run from the repository root, with Chromium installed, on a run of configs/moving_digits.py:
# python experiments/screenshots.py runs/moving_digits

import argparse
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

import vivit_jax as vivit
from vivit_jax.cli.main import main as run_command
from vivit_jax.config.schema import MovingDigits
from vivit_jax.data.moving_digits import digit_videos, draw, encode

SCENES = ('left', 'growing', 'clockwise', 'down')  # of the long video, one after the other


def screenshot(page: Path, target: Path, width: int, height: int) -> None:
  """Writes what Chromium shows of a page; pixels below `height` are cut off.

  Raises:
    SystemExit: there is no Chromium, or it writes nothing.
  """
  browser = shutil.which('chromium') or shutil.which('google-chrome')
  if browser is None:
    raise SystemExit('screenshots: Chromium is not installed: apt-get install chromium')
  with tempfile.TemporaryDirectory() as profile:
    subprocess.run(
      [browser, '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
       f'--user-data-dir={profile}', f'--window-size={width},{height}', f'--screenshot={target}',
       page.resolve().as_uri()],
      check=True, capture_output=True,
    )  # fmt: skip
  if not target.is_file():
    raise SystemExit(f'screenshots: {browser} wrote no picture of {page}')


def smaller(target: Path) -> None:
  """Writes a PNG again, with the highest compression."""
  image = cv2.imread(str(target))
  assert image is not None
  cv2.imwrite(str(target), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def main() -> None:
  """Writes the pictures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir', type=Path, help='a run of configs/moving_digits.py')
  parser.add_argument('--output', type=Path, default=Path('docs/images'), help='(%(default)s)')
  options = parser.parse_args()
  samples = digit_videos(MovingDigits(), 'test')
  scenes = [draw(next(s for s in samples if s.verb == verb)) for verb in SCENES]

  screenshot(options.workdir / 'report.html', options.output / 'report.png', 1000, 832)
  with tempfile.TemporaryDirectory() as folder:
    run, page = str(options.workdir.resolve()), Path(folder, 'timeline.html')
    with contextlib.chdir(folder):  # the page shows the video's path
      encode(Path('four_scenes.mp4'), np.concatenate(scenes))
      code = run_command(['timeline', run, 'four_scenes.mp4', f'--html={page}'])
    if code:
      raise SystemExit(code)
    screenshot(page, options.output / 'timeline.png', 1000, 545)
  explained = vivit.load(options.workdir).attention(scenes[0])
  (options.output / 'attention.png').write_bytes(explained.png())
  for name in ('report', 'timeline', 'attention'):
    smaller(options.output / f'{name}.png')


if __name__ == '__main__':
  main()
