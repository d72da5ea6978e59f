# SPDX-License-Identifier: Apache-2.0
"""Writes an evaluation to a folder: report.json, figures, and a self-contained report.html."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.schema import Task
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.classes import ClassScore, by_class
from vivit_jax.evaluate.metrics import Mistake, confusion, most_confused
from vivit_jax.evaluate.page import ClassesView, ConfusionView, MistakeView, render
from vivit_jax.evaluate.plots import draw_classes, draw_confusion, draw_curves, draw_strip
from vivit_jax.files import replace_file

_LISTED_PAIRS = 10
_SECONDS = 'seconds_'  # prefix of columns in the metrics file with time by activity


@dataclasses.dataclass(frozen=True, eq=False)
class ShownMistake:
  """A mistake with the path and frames of its video."""

  mistake: Mistake
  path: str  # video path as in the manifest
  frames: UInt8[np.ndarray, 'n h w 3']  # one view; up to 8 of its frames are shown


def write_report(
  folder: Path,
  results: Mapping[str, Any],
  *,
  title: str,
  predictions: Predictions,
  task: Task,
  class_names: Mapping[str, Sequence[str]],
  curves: Sequence[Mapping[str, Any]],
  mistakes: Sequence[ShownMistake],
  config: Mapping[str, Any],
) -> Path:
  """Writes report.json, report.html and the figures, each file atomically.

  The figures are curves.png, classes_<head>.png and confusion_<head>.png.

  Args:
    folder: created if missing; files of an earlier report are replaced.
    results: results of `metrics.compute`. report.json adds `failures` and `classes`: per head a
      list of `class`, `videos` and `top1` or `average_precision`, best first. NaN becomes null.
    title: heading of the page.
    predictions: merged predictions of all hosts.
    task: the heads and their type; a multi_label task has no confusion matrix.
    class_names: class names per head, by class id.
    curves: rows of the metrics file, {'step': ..., 'loss': ..., 'validation_top1': ...}; if empty,
      curves.png is not written.
    mistakes: results of `metrics.most_confident_mistakes`, with frames.
    config: the resolved config as JSON values.

  Returns:
    The path of report.html.

  Raises:
    OSError: the folder is not writable.
  """
  folder.mkdir(parents=True, exist_ok=True)
  scores = by_class(predictions, task, class_names, results)
  measure = 'average_precision' if task.kind == 'multi_label' else 'top1'
  _write_facts(folder / 'report.json', results, predictions.failures, scores, measure)

  curves_png = draw_curves(curves)
  if curves_png is not None:
    replace_file(folder / 'curves.png', curves_png)
  views = []
  for head, rows in scores.items():
    views.append(_classes_view(head, rows, measure))
    replace_file(folder / f'classes_{_file_name(head)}.png', views[-1].png)
  confusions = []
  for head in task.heads if task.kind == 'single_label' else ():
    confusions.append(_confusion_view(predictions, task, head, class_names[head]))
    replace_file(folder / f'confusion_{_file_name(head)}.png', confusions[-1].png)

  page = render(
    title,
    results,
    headline=task.joint or task.heads[0],
    curves=curves_png,
    classes=views,
    confusions=confusions,
    mistakes=[MistakeView(m.mistake, m.path, draw_strip(m.frames)) for m in mistakes],
    failures=predictions.failures,
    config=config,
    times=seconds_by_activity(curves),
  )
  replace_file(folder / 'report.html', page.encode())
  return folder / 'report.html'


def _write_facts(
  file: Path,
  results: Mapping[str, Any],
  failures: Sequence[tuple[str, str]],
  scores: Mapping[str, Sequence[ClassScore]],
  measure: str,
) -> None:
  classes = {
    head: [{'class': row.name, 'videos': row.videos, measure: row.score} for row in rows]
    for head, rows in scores.items()
  }
  write_facts(file, {**results, 'failures': listed(failures), 'classes': classes})


def listed(failures: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
  """Returns the videos that could not be read as JSON values."""
  return [{'path': path, 'reason': reason} for path, reason in failures]


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
  """Writes a JSON file, with null for NaN."""
  content = json.dumps(_without_nan(facts), indent=2, allow_nan=False)
  replace_file(file, content.encode() + b'\n')


def _file_name(head: str) -> str:
  """Returns a head's name for use in a file name: slashes and other special characters become _."""
  return re.sub(r'[^\w.-]', '_', head)


def _classes_view(head: str, rows: Sequence[ClassScore], measure: str) -> ClassesView:
  """Returns one head's class scores as a figure and a table."""
  label = measure.replace('_', ' ').replace('top1', 'top-1')
  return ClassesView(head, label, draw_classes(rows, label), tuple(rows))


def _confusion_view(
  predictions: Predictions, task: Task, head: str, names: Sequence[str]
) -> ConfusionView:
  """Returns one head's confusion matrix as a figure, and its most frequent confusions."""
  matrix = confusion(predictions, task, head)
  pairs = [(names[a], names[b], count) for a, b, count in most_confused(matrix, _LISTED_PAIRS)]
  return ConfusionView(head, draw_confusion(matrix, names, head), tuple(pairs))


def seconds_by_activity(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns seconds by activity of the last training command, from its last row."""
  last: Mapping[str, Any] = next((row for row in reversed(rows) if 'seconds_step' in row), {})
  return {
    name.removeprefix(_SECONDS): value for name, value in last.items() if name.startswith(_SECONDS)
  }


def _without_nan(value: Any) -> Any:
  """Returns nested JSON values with NaN and infinities replaced by None."""
  if isinstance(value, Mapping):
    return {key: _without_nan(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_without_nan(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
