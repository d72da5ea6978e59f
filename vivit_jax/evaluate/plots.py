# SPDX-License-Identifier: Apache-2.0
"""Figures of the report as PNG or JPEG bytes: curves, confusion matrices, strips of frames."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from vivit_jax.evaluate.classes import ClassScore

_NAMED_CLASSES = 40  # maximum number of readable names on an axis
_NUMBERED_CLASSES = 20  # maximum number of classes with readable counts in the cells
_LOWEST_CLASSES = 20  # number of named classes if not all can be named
_LONGEST_NAME = 24  # characters of a class name along an axis
_EVALUATED = 'validation_'
_PANELS = {'loss': ('loss',), 'accuracy': ('top1', 'accuracy', 'mAP')}  # prefixes of columns


def draw_curves(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
  """Returns a plot of loss and accuracies over steps as a PNG, or None if there is no data.

  Args:
    rows: rows of a metrics file: 'step' and any of 'loss', 'top1', 'top1_<head>', 'accuracy',
      'mAP', each a number or None, prefixed by 'validation_' in evaluation rows. Other columns are
      ignored.
  """
  names = sorted({name for row in rows for name in row})
  shown = {
    panel: [
      n for n in names if n.removeprefix(_EVALUATED).startswith(starts) and _points(rows, n)[0]
    ]
    for panel, starts in _PANELS.items()
  }
  shown = {panel: series for panel, series in shown.items() if series}
  if not shown:
    return None
  figure = Figure(figsize=(5.5 * len(shown), 3.6), layout='constrained')
  for axes, (panel, series) in zip(
    figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True
  ):
    _draw_panel(axes, rows, series)
    axes.set_ylabel(panel)
    if panel == 'accuracy':
      axes.set_ylim(-0.02, 1.02)
  return _png(figure)


def _draw_panel(axes: Axes, rows: Sequence[Mapping[str, Any]], series: Sequence[str]) -> None:
  """Draws each series; training and validation of one metric share a color."""
  metrics = sorted({name.removeprefix(_EVALUATED) for name in series})
  for name in sorted(series, key=lambda name: (name.removeprefix(_EVALUATED), name)):
    steps, values = _points(rows, name)
    validation = name.startswith(_EVALUATED)
    color = f'C{metrics.index(name.removeprefix(_EVALUATED)) % 10}'
    label = name.replace('_', ' ') if validation else f'training {name.replace("_", " ")}'
    style = {'marker': 'o', 'ms': 4, 'lw': 2} if validation else {'lw': 1, 'alpha': 0.55}
    if len(steps) == 1:
      style = {**style, 'marker': 'o'}
    axes.plot(steps, values, color=color, label=label, **style)
  axes.set_xlabel('step')
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  _plain(axes.legend(frameon=False, fontsize='small').get_texts())


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
  """Returns the steps and values of the column `name` where it is finite."""
  found = [(row['step'], row[name]) for row in rows if row.get(name) is not None]
  found = [(step, value) for step, value in found if math.isfinite(value)]
  return [step for step, _ in found], [value for _, value in found]


def draw_classes(rows: Sequence[ClassScore], measure: str) -> bytes:
  """Returns a bar chart of class scores with numbers of videos, as a PNG.

  With up to `_NAMED_CLASSES` classes, every bar has its name. With more, the left panel shows all
  classes without names, and the right panel shows the lowest ones with names.

  Args:
    rows: class scores, best first; classes without a score are ignored.
    measure: name of the score.
  """
  scored = [row for row in rows if row.score is not None]
  many = len(scored) > _NAMED_CLASSES
  named = scored[-_LOWEST_CLASSES:] if many else scored
  height = max(2.0, 0.7 + 0.2 * len(named))
  figure = Figure(figsize=(10.0 if many else 6.5, height), layout='constrained')
  *left, right = figure.subplots(1, 2 if many else 1, squeeze=False)[0]
  values = np.array([row.score for row in scored], float)
  for axes in left:
    axes.fill_between(np.arange(len(values) + 1), np.append(values, values[-1:]), step='post')
    axes.axhline(values.mean(), color='black', lw=1, ls='--', label=f'mean {values.mean():.1%}')
    axes.set(xlim=(0, len(values)), ylim=(0, 1.02), ylabel=measure)
    axes.set_xlabel(f'{len(values)} classes, best first')
    axes.legend(loc='lower left')
  bars = right.barh(range(len(named)), [row.score for row in named], height=0.75)
  right.bar_label(bars, [f'{row.videos:,}' for row in named], padding=3, fontsize='x-small')
  right.set_yticks(range(len(named)), [_short(row.name) for row in named], fontsize='small')
  right.set(xlim=(0, 1.12), ylim=(len(named) - 0.4, -0.6))
  right.set_xlabel(f'{measure}; numbers: videos')
  right.set_title(f'the lowest {len(named)}' if many else '', fontsize='medium')
  for axes in (*left, right):
    axes.spines[['top', 'right']].set_visible(False)
  _plain(right.get_yticklabels())
  return _png(figure)


def draw_confusion(matrix: Int[np.ndarray, 'c c'], names: Sequence[str], title: str) -> bytes:
  """Returns a confusion matrix as a PNG: color is the share of the true class's videos.

  The axes show class names for up to `_NAMED_CLASSES` classes, and class ids for more.
  """
  classes = len(matrix)
  share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  side = min(max(3.5, 1.5 + 0.32 * classes), 9.5)
  figure = Figure(figsize=(side + 1.0, side), layout='constrained')
  axes = figure.subplots()
  # The square root keeps single confusions visible if there are many classes.
  norm = PowerNorm(0.5 if classes > _NAMED_CLASSES else 1.0, vmin=0, vmax=1)
  image = axes.imshow(share, cmap='Blues', norm=norm, interpolation='nearest')
  figure.colorbar(image, ax=axes, label='share of the true class', shrink=0.8)
  axes.set_xlabel('predicted')
  axes.set_ylabel('true')
  axes.set_title(title, parse_math=False)
  if classes <= _NAMED_CLASSES:
    short = [_short(name) for name in names]
    axes.set_xticks(range(classes), short, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(classes), short)
    _plain([*axes.get_xticklabels(), *axes.get_yticklabels()])
  if classes <= _NUMBERED_CLASSES:
    for row, column in zip(*np.nonzero(matrix), strict=True):
      color = 'white' if share[row, column] > 0.55 else 'black'
      text = str(matrix[row, column])
      axes.text(column, row, text, ha='center', va='center', color=color, fontsize='small')
  return _png(figure)


def _short(name: str) -> str:
  return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + '…'


def _plain(labels: Sequence[Text]) -> None:
  """Keeps matplotlib from parsing `$...$` in a user's class name as a formula."""
  for label in labels:
    label.set_parse_math(False)


def _png(figure: Figure) -> bytes:
  """Returns the figure as PNG bytes."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # Characters that the font lacks are drawn as boxes; the HTML page shows the names correctly.
    warnings.filterwarnings('ignore', message='Glyph .* missing from', category=UserWarning)
    figure.savefig(buffer, format='png', dpi=120)
  return buffer.getvalue()


def side_by_side(
  frames: UInt8[np.ndarray, 'n h w 3'], most: int, gap: int, color: int
) -> UInt8[np.ndarray, 'h x 3']:
  """Returns up to `most` frames, evenly spread over the clip, with gray gaps of `gap` pixels."""
  chosen = frames[np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)]
  padded = np.pad(chosen, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=color)
  return np.concatenate(list(padded), axis=1)[:, :-gap]


def draw_strip(frames: UInt8[np.ndarray, 'n h w 3'], most: int = 8) -> bytes:
  """Returns up to `most` frames, evenly spaced in the clip, side by side as a JPEG."""
  buffer = io.BytesIO()
  strip = side_by_side(frames, most, gap=max(1, frames.shape[2] // 48), color=128)
  imsave(buffer, np.ascontiguousarray(strip), format='jpg', pil_kwargs={'quality': 88})
  return buffer.getvalue()
