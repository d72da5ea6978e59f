# SPDX-License-Identifier: Apache-2.0
"""From probabilities over time to segments: from when to when which label holds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vivit_jax.config.schema import Task, TaskKind, head_slices
from vivit_jax.evaluate.ranks import probabilities

HOLDS = 0.5  # probability from which a tag holds


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of a video with one label.

  Attributes:
    head: of the task.
    label: that is the most probable, or where labels are tags holds, in all windows of it.
    start, end: seconds.
    peak: seconds at which it is the most probable.
    probability: there.
    mean: its mean probability over the windows.
  """

  head: str
  label: str
  start: float
  end: float
  peak: float
  probability: float
  mean: float


def borders(seconds: Float64[np.ndarray, 'w 2'], duration: float) -> Float64[np.ndarray, ' w_1']:
  """Returns where each window's answer stops to count and the next one's begins.

  An answer counts for what is nearest to the middle of its window; the first from the start of the
  video, the last to its end.
  """
  middle = seconds.mean(axis=1)
  return np.concatenate([[0.0], (middle[1:] + middle[:-1]) / 2, [duration]])


def segments(
  head: str,
  names: Sequence[str],
  kind: TaskKind,
  shares: Float64[np.ndarray, 'w c'],
  seconds: Float64[np.ndarray, 'w 2'],
  duration: float,
) -> list[Segment]:
  """Returns one head's segments by their start: neighbouring windows of one label are one.

  Args:
    head: its name.
    names: of its classes.
    kind: of the task; tags may overlap.
    shares: probabilities in each window.
    seconds: of each window.
    duration: of the video, seconds.
  """
  edges, middle = borders(seconds, duration), seconds.mean(axis=1)
  result = []
  for index, name in enumerate(names):
    own = shares[:, index]
    holds = own >= HOLDS if kind == 'multi_label' else shares.argmax(axis=1) == index
    for first, last in _runs(holds):
      part = own[first:last]
      best = first + int(part.argmax())
      result.append(
        Segment(
          head,
          name,
          float(edges[first]),
          float(edges[last]),
          float(middle[best]),
          float(own[best]),
          float(part.mean()),
        )
      )
  return sorted(result, key=lambda segment: (segment.start, segment.end))


def _runs(holds: Bool[np.ndarray, ' w']) -> list[tuple[int, int]]:
  """Returns the first and one after the last place of each run of True."""
  change = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
  return [(int(a), int(b)) for a, b in change.reshape(-1, 2)]


def head_probabilities(
  task: Task, logits: Float32[np.ndarray, 'w c']
) -> dict[str, Float64[np.ndarray, 'w k']]:
  """Returns the probabilities of each head's classes in each window."""
  shares = probabilities(logits.astype(np.float64), task)
  return {head: shares[:, part] for head, part in head_slices(task).items()}


def all_segments(
  task: Task,
  names: dict[str, tuple[str, ...]],
  shares: dict[str, Float64[np.ndarray, 'w c']],
  seconds: Float64[np.ndarray, 'w 2'],
  duration: float,
) -> list[Segment]:
  """Returns the segments of all heads, one head after the other."""
  return [
    segment
    for head in task.heads
    for segment in segments(head, names[head], task.kind, shares[head], seconds, duration)
  ]
