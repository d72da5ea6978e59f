# SPDX-License-Identifier: Apache-2.0
"""Converts probabilities over time to segments of labels with start and end."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vivit_jax.config.schema import Task, TaskKind, head_slices
from vivit_jax.evaluate.ranks import probabilities

HOLDS = 0.5  # minimum probability of a present tag (multi_label)


@dataclasses.dataclass(frozen=True)
class Segment:
  """A part of a video with one label.

  Attributes:
    head: head of the task.
    label: label that is the most probable one (or, for multi_label, present) in all its windows.
    start, end: start and end in seconds.
    peak: time of the highest probability, in seconds.
    probability: the highest probability.
    mean: mean probability over its windows.
  """

  head: str
  label: str
  start: float
  end: float
  peak: float
  probability: float
  mean: float


def borders(seconds: Float64[np.ndarray, 'w 2'], duration: float) -> Float64[np.ndarray, ' w_1']:
  """Returns the boundaries between the time ranges that are assigned to the windows.

  Each time is assigned to the window with the nearest center; the first window's range starts at 0,
  and the last one's ends at the end of the video.
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
  """Returns one head's segments, sorted by start; consecutive windows with one label are merged.

  Args:
    head: name of the head.
    names: its class names.
    kind: kind of the task; multi_label segments may overlap.
    shares: probabilities in each window.
    seconds: start and end of each window.
    duration: duration of the video in seconds.
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
  """Returns (start, stop) of each run of True."""
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
