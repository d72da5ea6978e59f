# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that asks the network for nothing; every name in it is escaped."""

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vivit_jax.evaluate.metrics import Mistake
from vivit_jax.evaluate.style import STYLE


@dataclasses.dataclass(frozen=True)
class ConfusionView:
  """One head's confusion matrix as shown."""

  head: str
  png: bytes
  pairs: tuple[tuple[str, str, int], ...]  # (true, predicted, videos), the most frequent first


@dataclasses.dataclass(frozen=True)
class MistakeView:
  """One mistake as shown."""

  mistake: Mistake
  path: str
  jpeg: bytes


def render(
  title: str,
  results: Mapping[str, Any],
  *,
  headline: str,
  curves: bytes | None,
  confusions: Sequence[ConfusionView],
  mistakes: Sequence[MistakeView],
  class_names: Mapping[str, Sequence[str]],
  failures: Sequence[tuple[str, str]],
  config: Mapping[str, Any],
  times: Mapping[str, float],
) -> str:
  """Returns the page; sections without content are left out.

  Args:
    title: heading.
    results: of `metrics.compute`.
    headline: the head, or joint metric, that the results' top level is about.
    curves: PNG.
    confusions: one per head.
    mistakes: the most confident first.
    class_names: per head, in the order of the ids.
    failures: (path, reason) of videos that could not be read.
    config: the resolved configuration, plain values.
    times: seconds of training by activity.
  """
  sections = [
    _numbers(results, headline),
    _section('By task', _tasks(results['tasks'], class_names)),
    _section('Training', _plot(curves, 'loss and accuracy over steps') if curves else ''),
    _section('Confusions', ''.join(map(_confusion, confusions))),
    _section(
      'Most confident mistakes',
      f'<div class="mistakes">{"".join(map(_mistake, mistakes))}</div>' if mistakes else '',
    ),
    _section('Videos that could not be read', _failures(failures)),
    _data(results),
    _section('Time of the last training command', _times(times)),
    _section(
      'Configuration',
      '<details><summary>Every setting of this run</summary>'
      + _card(f'<pre>{escape(json.dumps(config, indent=2, default=str))}</pre>')
      + '</details>',
    ),
  ]
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{''.join(sections)}
</main>
</body>
</html>
"""


def _section(heading: str, body: str) -> str:
  return f'<h2>{escape(heading)}</h2>\n{body}\n' if body else ''


def _percent(value: float | None) -> str:
  """Returns 93.4 % for 0.934, n/a for what was not scored (None or NaN)."""
  return 'n/a' if value is None or value != value else f'{100 * value:.1f} %'


def _numbers(results: Mapping[str, Any], headline: str) -> str:
  """Returns the row of headline numbers."""
  views = results['views']
  per_video = views['temporal'] * views['spatial']
  scores = [('mAP', 'mean average precision'), ('top1', 'top-1'), ('top5', 'top-5')]
  boxes = [
    (_percent(results[key]), f'{label}, {escape(headline)}')
    for key, label in scores
    if key in results
  ]
  boxes += [
    (f'{results["videos"]:,}', 'videos'),
    (
      f'{views["temporal"]} &times; {views["spatial"]}',
      f'views (time &times; space), {per_video} a video' if per_video > 1 else 'one view a video',
    ),
    (f'{results["skipped"]:,}', 'videos skipped'),
  ]
  boxes += [
    (text.format(results[key]), key)
    for key, text in (('loss', '{:.3f}'), ('step', '{:,}'))
    if results.get(key) is not None
  ]
  items = ''.join(f'<div class="number"><b>{b}</b><span>{label}</span></div>' for b, label in boxes)
  return f'<div class="numbers">{items}</div>\n'


def _data(results: Mapping[str, Any]) -> str:
  """Returns which videos these are: of one public data set no two copies are the same."""
  if 'data' not in results:
    return ''
  return _section(
    'Data',
    f'<p>{results["videos"]:,} videos of {escape(results["split"])}, '
    f'fingerprint <code>{escape(results["data"])}</code></p>',
  )


def _tasks(tasks: Mapping[str, Mapping[str, Any]], names: Mapping[str, Sequence[str]]) -> str:
  """Returns a table with a row per head, and one per class for a multi-label head."""
  columns = {
    'mAP': 'mAP',
    'top1': 'top-1',
    'top5': 'top-5',
    'clip_top1': 'single view top-1',
    'clip_top5': 'single view top-5',
  }
  shown = [key for key in columns if any(key in task for task in tasks.values())]
  rows = [
    [name, f'{task["classes"]:,}', *(_percent(task.get(key)) for key in shown)]
    for name, task in tasks.items()
  ]
  body = _card(_table(['task', 'classes', *(columns[key] for key in shown)], rows))
  for name, task in tasks.items():
    if 'average_precision' in task:
      scored = zip(names[name], task['average_precision'], strict=True)
      ranked = sorted(scored, key=lambda pair: -1.0 if pair[1] is None else pair[1], reverse=True)
      table = _table(['class', 'average precision'], [[n, _percent(p)] for n, p in ranked])
      body += f'<details><summary>Every class of {escape(name)}</summary>{_card(table)}</details>'
  return body


def _times(seconds: Mapping[str, float]) -> str:
  """Returns the shares of what the time of training was spent on, the largest first."""
  total = sum(seconds.values())
  if not total:
    return ''
  ranked = sorted(seconds.items(), key=lambda item: -item[1])
  return _card(
    _table(
      ['activity', 'seconds', 'share'], [[n, f'{s:,.0f}', _percent(s / total)] for n, s in ranked]
    )
  )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Returns a table whose first column holds names and whose others hold numbers."""

  def line(tag: str, cells: Sequence[str]) -> str:
    first = f'<{tag} class="name">{escape(cells[0])}</{tag}>'
    return f'<tr>{first}{"".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells[1:])}</tr>'

  return f'<table>{line("th", header)}{"".join(line("td", row) for row in rows)}</table>'


def _card(body: str) -> str:
  return f'<div class="card">{body}</div>'


def _image(data: bytes, kind: str, text: str) -> str:
  source = base64.b64encode(data).decode('ascii')
  return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{source}">'


def _plot(png: bytes, text: str) -> str:
  # Plots are drawn on white, so they keep a white frame in a dark page.
  return f'<figure class="plot">{_image(png, "png", text)}</figure>'


def _confusion(view: ConfusionView) -> str:
  """Returns one head's matrix and, beside it where there is room, the pairs most often confused."""
  plot = _plot(view.png, f'confusion matrix of {view.head}')
  rows = [[f'{truth} → {predicted}', f'{count:,}'] for truth, predicted, count in view.pairs]
  pairs = _card(_table([f'{view.head}: true → predicted', 'videos'], rows)) if rows else ''
  return f'<div class="confusion">{plot}{pairs}</div>'


def _mistake(view: MistakeView) -> str:
  """Returns one mistake: its frames, what it is, what the model took it for."""
  mistake = view.mistake
  return (
    f'<figure class="card">{_image(view.jpeg, "jpeg", f"frames of {view.path}")}<figcaption>'
    f'<b>{escape(mistake.predicted)}</b> ({_percent(mistake.confidence)}), '
    f'in truth <b>{escape(mistake.truth)}</b><br><small>{escape(view.path)}</small>'
    '</figcaption></figure>'
  )


def _failures(failures: Sequence[tuple[str, str]]) -> str:
  """Returns the list of unreadable videos, closed when long."""
  if not failures:
    return ''
  rows = ''.join(
    f'<tr><td class="name">{escape(path)}</td><td class="name">{escape(reason)}</td></tr>'
    for path, reason in failures
  )
  opened = ' open' if len(failures) <= 10 else ''
  table = _card(f'<table>{rows}</table>')
  return f'<details{opened}><summary>{len(failures):,} videos</summary>{table}</details>'
