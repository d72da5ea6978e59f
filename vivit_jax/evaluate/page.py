# SPDX-License-Identifier: Apache-2.0
"""The report as one self-contained HTML page without network requests; all names are escaped."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from vivit_jax.evaluate.classes import ClassScore
from vivit_jax.evaluate.metrics import Mistake

FOLDER = Path(__file__).parent
STYLE = (FOLDER / 'style.css').read_text(encoding='utf-8')
SCORES = {'mAP': 'mean average precision', 'top1': 'top-1', 'top5': 'top-5'}
COLUMNS = {
  'mAP': 'mAP',
  'top1': 'top-1',
  'top5': 'top-5',
  'class_top1': 'mean of classes',
  'clip_top1': 'single view top-1',
  'clip_top5': 'single view top-5',
}


@dataclasses.dataclass(frozen=True)
class ConfusionView:
  """One head's confusion matrix, as shown on the page."""

  head: str
  png: bytes
  pairs: tuple[tuple[str, str, int], ...]  # (true, predicted, videos), most frequent first


@dataclasses.dataclass(frozen=True)
class ClassesView:
  """One head's class scores, as shown on the page."""

  head: str
  measure: str  # name of the score
  png: bytes
  rows: tuple[ClassScore, ...]


@dataclasses.dataclass(frozen=True)
class MistakeView:
  """One mistake, as shown on the page."""

  mistake: Mistake
  path: str
  jpeg: bytes


def render(
  title: str,
  results: Mapping[str, Any],
  *,
  headline: str,
  curves: bytes | None,
  classes: Sequence[ClassesView],
  confusions: Sequence[ConfusionView],
  mistakes: Sequence[MistakeView],
  failures: Sequence[tuple[str, str]],
  config: Mapping[str, Any],
  times: Mapping[str, float],
) -> str:
  """Returns the page; empty sections are omitted.

  Args:
    title: heading.
    results: results of `metrics.compute`.
    headline: the head, or joint metric, at the top level of the results.
    curves: training curves as a PNG.
    classes: class scores per head.
    confusions: confusion matrix per head.
    mistakes: mistakes, most confident first.
    failures: (path, reason) of unreadable videos.
    config: the resolved config as JSON values.
    times: seconds of training by activity.
  """
  tasks = results['tasks']
  shown = [key for key in COLUMNS if any(key in task for task in tasks.values())]
  return (
    environment()
    .get_template('page.html')
    .render(
      title=title,
      style=STYLE,
      results=results,
      headline=headline,
      scores=SCORES,
      task_header=['task', 'classes', *(COLUMNS[key] for key in shown)],
      task_rows=[
        [name, f'{task["classes"]:,}', *(percent(task.get(key)) for key in shown)]
        for name, task in tasks.items()
      ],
      curves=curves,
      classes=classes,
      class_rows={
        view.head: [(row.name, f'{row.videos:,}', percent(row.score)) for row in view.rows]
        for view in classes
      },
      confusions=confusions,
      mistakes=mistakes,
      failures=failures,
      config=json.dumps(config, indent=2, default=str),
      times=time_rows(times),
    )
  )


def environment() -> jinja2.Environment:
  """Returns what renders the templates of this folder; every value is escaped."""
  found = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(FOLDER)
  )
  found.filters |= {
    'base64': lambda data: base64.b64encode(data).decode('ascii'),
    'percent': percent,
    'thousands': '{:,}'.format,
  }
  return found


def percent(value: float | None) -> str:
  """Returns 93.4 % for 0.934, and n/a for a missing score (None or NaN)."""
  return 'n/a' if value is None or value != value else f'{100 * value:.1f} %'


def time_rows(seconds: Mapping[str, float]) -> list[tuple[str, str, str]]:
  """Returns (activity, seconds, share of the total), longest first."""
  total = sum(seconds.values())
  ranked = sorted(seconds.items(), key=lambda item: -item[1])
  return [(name, f'{s:,.0f}', percent(s / total)) for name, s in ranked if total]
