# SPDX-License-Identifier: Apache-2.0
"""Predictions for videos as a table or as JSON, including how the videos were read."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from vivit_jax.config.augment import Triple
from vivit_jax.config.clip import Channels, Clip, Interpolation, Resize, Sampling, in_words
from vivit_jax.config.schema import Task, head_slices
from vivit_jax.errors import printable
from vivit_jax.evaluate.ranks import probabilities

NOT_FINITE = 'the model returned non-finite logits'  # error of a video without a prediction


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How the model's input is made from a video."""

  frames: int  # per clip
  stride: int  # in frames of the video; see config.Clip for all three
  stride_from: Literal['argument', 'checkpoint', 'assumed']
  stride_seconds: float | None
  sampling: Sampling
  height: int  # pixels
  width: int
  short_side: int  # see SpatialCrops
  resize: Resize  # see config.Clip for these two
  interpolation: Interpolation
  mean: Triple  # the model's input is (pixel / 255 - mean) / std, per channel
  std: Triple
  channels: Channels  # channel order of mean, std and the model's input
  temporal_views: int
  spatial_views: int

  @property
  def views(self) -> int:
    """Number of views per video."""
    return self.temporal_views * self.spatial_views

  @property
  def clip(self) -> Clip:
    """The clip settings of one view."""
    return Clip(
      self.frames, self.stride, self.stride_seconds, self.sampling, self.height, self.width,
      self.mean, self.std, self.resize, self.interpolation,
    )  # fmt: skip

  def __str__(self) -> str:
    """Returns the protocol in one line, and marks assumed values."""
    stride = f'every {self.stride} frames' if self.stride > 1 else 'every frame'
    if self.stride_seconds is not None:
      stride = f'every {self.stride_seconds:g} s'
    if self.sampling != 'stride':
      which = 'the middle' if self.sampling == 'whole_video' else 'the first'
      stride = f'{which} of equal parts of the whole video'
    elif self.stride_from == 'assumed':
      stride += ' (assumed: the checkpoint does not say)'
    shown = f'of a short side of {self.short_side}'
    if self.resize == 'whole_frame':
      shown = 'of the whole frame'
    resized = '' if self.interpolation == 'area' else f', {self.interpolation}'
    return (
      f'{self.temporal_views}x{self.spatial_views} views of {self.frames} frames, {stride}, '
      f'{self.height}x{self.width} pixels {shown}{resized}, '
      f'{self.channels} {self._values()}'
    )

  def _values(self) -> str:
    if len({*self.mean}) == len({*self.std}) == 1:
      low, high = ((end - self.mean[0]) / self.std[0] for end in (0, 1))
      return f'from {low:.4g} to {high:.4g}'
    return f'of {in_words(self.mean, self.std)}'


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Prediction for one video.

  Attributes:
    path: path as given by the user.
    heads: per head, (label, probability) of the most probable labels, highest first; softmax
      probabilities for single_label tasks, sigmoids for multi_label. Empty if there is an error.
    frames: number of frames in the video.
    seconds: time from the first frame to the last.
    used: number of different frames in the views.
    missing: number of further frames of the views that could not be decoded.
    error: why there is no prediction, in one line, or None.
    shares: probabilities of all classes of all heads, in order; not part of the JSON.
  """

  path: str
  heads: Mapping[str, tuple[tuple[str, float], ...]]
  frames: int = 0
  seconds: float = 0.0
  used: int = 0
  missing: int = 0
  error: str | None = None
  shares: tuple[float, ...] = dataclasses.field(default=(), repr=False)

  @property
  def labels(self) -> list[tuple[str, float]]:
    """The predictions of all heads in one list, see `one_list`."""
    return one_list(self.heads)


def one_list(heads: Mapping[str, Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
  """Returns (label, probability) of all heads; with several heads, labels are HEAD:LABEL."""
  if len(heads) == 1:
    return list(*heads.values())
  return [(f'{head}:{label}', share) for head, best in heads.items() for label, share in best]


def most_probable(
  logits: Float[np.ndarray, ' c'], task: Task, labels: Sequence[str] | None, top: int
) -> dict[str, tuple[tuple[str, float], ...]]:
  """Returns the `heads` of a Prediction.

  Args:
    logits: finite logits of one video.
    task: the heads and their type.
    labels: class names of all heads in order; None = `class 0`, `class 1` and so on per head.
    top: number of labels per head.
  """
  shares = probabilities(logits[None], task)[0]
  names, heads = class_names(task, labels), {}
  for head, part in head_slices(task).items():
    best = np.argsort(-shares[part], kind='stable')[:top]
    heads[head] = tuple((names[head][i], float(shares[part][i])) for i in best)
  return heads


def class_names(task: Task, labels: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
  """Returns the class names of each head; without labels, `class 0`, `class 1` and so on."""
  return {
    head: tuple(labels[part] if labels else map('class {}'.format, range(part.stop - part.start)))
    for head, part in head_slices(task).items()
  }


def as_json(predictions: Sequence[Prediction], protocol: Protocol) -> str:
  """Returns {"protocol": ..., "videos": [{"path", "heads": {head: [{"label", "probability"}]}}]}.

  A video without a prediction has a non-null "error" and no heads.
  """
  videos = [
    {
      field.name: getattr(prediction, field.name)
      for field in dataclasses.fields(prediction)
      if field.name != 'shares'
    }
    | {
      'heads': {
        head: [{'label': label, 'probability': share} for label, share in best]
        for head, best in prediction.heads.items()
      }
    }
    for prediction in predictions
  ]
  return json.dumps({'protocol': dataclasses.asdict(protocol), 'videos': videos}, indent=2)


def as_table(predictions: Sequence[Prediction], protocol: Protocol) -> str:
  """Returns a text table: the protocol as a title, then a row per label or error."""
  several = any(len(prediction.heads) > 1 for prediction in predictions)
  header = ['video', 'frames', 'used', 'seconds', *(['head'] if several else []), 'label', '']
  rows = [header]
  for prediction in predictions:
    rows += _rows(prediction, several)
  widths = [max(len(row[i]) for row in rows) for i in range(len(header) - 2)]
  label = max((len(row[-2]) for row in rows if row[-1]), default=0)
  lines = [str(protocol), '']
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
        'cannot be decoded and were replaced by the nearest frames',
      ]
  failed = sum(prediction.error is not None for prediction in predictions)
  if failed:
    lines += ['', f'{failed} of {len(predictions)} videos have no prediction']
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
