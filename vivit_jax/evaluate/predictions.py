# SPDX-License-Identifier: Apache-2.0
"""What a model says about videos, as a table to read and as JSON to go on with."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from vivit_jax.errors import printable


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One video's answer.

  Attributes:
    path: as it was given.
    heads: per head of the task, (label, probability) of the likeliest, the first first. Softmax;
      where several labels can hold at once, each label's own sigmoid. Empty with an error.
    frames: of the video.
    seconds: from its first frame to its last.
    used: how many different frames the views showed.
    missing: how many more they would have shown, but these cannot be decoded.
    error: why there is no answer, in one line.
  """

  path: str
  heads: Mapping[str, tuple[tuple[str, float], ...]]
  frames: int = 0
  seconds: float = 0.0
  used: int = 0
  missing: int = 0
  error: str | None = None


def as_json(predictions: Sequence[Prediction], protocol: Mapping[str, Any]) -> str:
  """Returns {"protocol": ..., "videos": [{"path", "heads": {head: [{"label", "probability"}]}}]}.

  A video without an answer has an "error" that is not null, and no heads.

  Args:
    predictions: in their order.
    protocol: how videos were read, plain values.
  """
  videos: list[dict[str, Any]] = []
  for prediction in predictions:
    heads = {
      head: [{'label': label, 'probability': share} for label, share in best]
      for head, best in prediction.heads.items()
    }
    fields = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    videos.append(fields | {'heads': heads})
  return json.dumps({'protocol': dict(protocol), 'videos': videos}, indent=2)


def as_table(predictions: Sequence[Prediction], title: str) -> str:
  """Returns aligned text: a title that says how videos were read, and a row per label or error."""
  several = any(len(prediction.heads) > 1 for prediction in predictions)
  header = ['video', 'frames', 'used', 'seconds', *(['head'] if several else []), 'label', '']
  rows = [header]
  for prediction in predictions:
    rows += _rows(prediction, several)
  widths = [max(len(row[i]) for row in rows) for i in range(len(header) - 2)]
  label = max((len(row[-2]) for row in rows if row[-1]), default=0)
  lines = [title, '']
  for *cells, last, share in rows:
    left = [
      cell.rjust(width) if 1 <= i <= 3 else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    lines.append('  '.join([*left, f'{last:{label}}  {share}' if share else last]).rstrip())
  for prediction in predictions:
    if prediction.missing:
      lines += [
        '',
        f'{printable(prediction.path)} is damaged: {prediction.missing} frames of its views '
        'cannot be decoded, and their nearest neighbors stand in',
      ]
  failed = sum(prediction.error is not None for prediction in predictions)
  if failed:
    lines += ['', f'{failed} of {len(predictions)} videos have no answer']
  return '\n'.join(lines)


def _rows(prediction: Prediction, several: bool) -> list[list[str]]:
  path = printable(prediction.path)
  gap = [''] if several else []
  if prediction.error is not None:
    return [[path, '-', '-', '-', *gap, printable(f'error: {prediction.error}'), '']]
  first = [path, str(prediction.frames), str(prediction.used), f'{prediction.seconds:.2f}']
  rows = []
  for head, best in prediction.heads.items():
    name = [printable(head)] if several else []
    for label, share in best:
      rows.append([*first, *name, printable(label), f'{share:7.2%}'])
      first, name = [''] * 4, gap
  return rows
