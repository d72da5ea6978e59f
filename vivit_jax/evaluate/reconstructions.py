# SPDX-License-Identifier: Apache-2.0
"""The report of masked pretraining: loss, probe, curves, and pictures of what was predicted."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.image import imsave

from vivit_jax.evaluate.page import STYLE, environment, time_rows
from vivit_jax.evaluate.plots import draw_curves, side_by_side
from vivit_jax.evaluate.report import listed, seconds_by_activity, write_facts
from vivit_jax.files import replace_file

FRAMES = 8  # shown of a clip, evenly spread
SCALE = 96  # pixels of a frame's height in a picture, at least
GAP = 4  # pixels between frames and between rows
ROWS = ('original', 'visible', 'predicted')


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
  """One clip of the validation.

  Attributes:
    path: of the video, as in the manifest.
    loss: of this clip.
    original: its frames.
    visible: the same with hidden patches in gray.
    predicted: the same with what the decoder predicts of hidden patches.
  """

  path: str
  loss: float
  original: UInt8[np.ndarray, 'f h w 3']
  visible: UInt8[np.ndarray, 'f h w 3']
  predicted: UInt8[np.ndarray, 'f h w 3']


def draw_reconstruction(shown: Reconstruction) -> bytes:
  """Returns a PNG: a row each of original, visible and predicted frames."""
  times = -(-SCALE // shown.original.shape[1])
  rows = []
  for name in ROWS:
    frames = getattr(shown, name).repeat(times, axis=1).repeat(times, axis=2)
    row = side_by_side(frames, FRAMES, gap=GAP, color=255)
    rows.append(np.pad(row, ((0, GAP), (0, 0), (0, 0)), constant_values=255))
  buffer = io.BytesIO()
  imsave(buffer, np.concatenate(rows)[:-GAP], format='png')
  return buffer.getvalue()


def write_pretraining_report(
  folder: Path,
  results: Mapping[str, Any],
  *,
  title: str,
  curves: Sequence[Mapping[str, Any]],
  shown: Sequence[Reconstruction],
  failures: Sequence[tuple[str, str]],
  config: Mapping[str, Any],
) -> Path:
  """Writes report.json, report.html, curves.png and reconstruction_N.png, each atomically.

  Args:
    folder: made if it is missing; files of an earlier report are replaced.
    results: `loss`, `videos`, `skipped`, `step`, and `knn_top1` if there are labels; report.json is
      this plus `failures`.
    title: heading of the page.
    curves: rows of the metrics file.
    shown: the clips of the pictures.
    failures: (path, reason) of videos that could not be read.
    config: the resolved configuration, plain values.

  Returns:
    The path of report.html.
  """
  folder.mkdir(parents=True, exist_ok=True)
  write_facts(folder / 'report.json', {**results, 'failures': listed(failures)})
  curves_png = draw_curves(curves)
  if curves_png is not None:
    replace_file(folder / 'curves.png', curves_png)
  pictures = []
  for number, one in enumerate(shown):
    pictures.append((one, draw_reconstruction(one)))
    replace_file(folder / f'reconstruction_{number}.png', pictures[-1][1])
  page = (
    environment()
    .get_template('reconstructions.html')
    .render(
      title=title,
      style=STYLE,
      results=results,
      probes={name: value for name, value in results.items() if name.startswith('knn_')},
      curves=curves_png,
      pictures=pictures,
      normalized=config['masked']['target'] != 'pixels',
      failures=failures,
      config=json.dumps(config, indent=2, default=str),
      times=time_rows(seconds_by_activity(curves)),
    )
  )
  replace_file(folder / 'report.html', page.encode())
  return folder / 'report.html'
