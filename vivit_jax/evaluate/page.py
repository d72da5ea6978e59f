# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that asks the network for nothing; every name in it is escaped."""

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vivit_jax.evaluate.metrics import Mistake


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


STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #dfe4ec;
  --page: #f5f7fa; --card: #ffffff; --accent: #1f5fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf1; --soft: #98a3b5; --line: #2d3644;
  --page: #12161d; --card: #1a202a; --accent: #7db0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; }
p { color: var(--soft); margin: 0 0 12px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin-top: 24px; }
.number, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.number { padding: 14px 16px; }
.number b { display: block; font-size: 26px; font-weight: 650; letter-spacing: -0.02em; }
.number:first-child b { color: var(--accent); }
.number span { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.card { padding: 14px 16px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; white-space: nowrap; padding: 7px 10px;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 7em; }
tr:last-child td { border-bottom: 0; }
img { display: block; max-width: 100%; border-radius: 6px; }
.plot { background: #ffffff; border: 1px solid var(--line); border-radius: 10px; padding: 10px;
  margin: 0 0 16px; }
.plot img { margin: 0 auto; }
.confusion { display: flex; flex-wrap: wrap; gap: 14px; margin-bottom: 14px; }
.confusion .plot { flex: 0 1 auto; margin: 0; }
.confusion .card { flex: 1 1 280px; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(440px, 1fr));
  gap: 14px; }
.mistakes img { width: 100%; }
.mistakes figcaption { margin-top: 8px; font-size: 14px; overflow-wrap: anywhere; }
.mistakes small { color: var(--soft); }
figure { margin: 0; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; font-size: 13px; margin: 12px 0 0; }
@media (max-width: 520px) { .mistakes { grid-template-columns: 1fr; } }
"""
