# SPDX-License-Identifier: Apache-2.0
"""Scores per class, best first."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vivit_jax.config.schema import Task, head_slices
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.ranks import ranks


class ClassScore(NamedTuple):
  """Score of one class of one head."""

  name: str
  videos: int  # videos with this true class
  score: float | None  # their top-1, or average precision, in [0, 1]; None without videos


def class_counts(predictions: Predictions, task: Task, head: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns per class of a single_label head the number of videos and of correct predictions.

  A video with a non-finite logit for its true class counts as wrong.
  """
  part = head_slices(task)[head]
  truth = predictions.labels[predictions.seen, task.heads.index(head)].astype(np.int64)
  right = ranks(predictions.mean_logits()[:, part], truth) == 0
  classes = part.stop - part.start
  return np.bincount(truth, minlength=classes), np.bincount(truth[right], minlength=classes)


def mean_accuracy(predictions: Predictions, task: Task, head: str) -> float:
  """Returns the mean top-1 over classes that have videos; NaN if there are none."""
  videos, right = class_counts(predictions, task, head)
  seen = videos > 0
  return float(np.mean(right[seen] / videos[seen])) if seen.any() else float('nan')


def by_class(
  predictions: Predictions,
  task: Task,
  class_names: Mapping[str, Sequence[str]],
  results: Mapping[str, Any],
) -> dict[str, list[ClassScore]]:
  """Returns the class scores of each head, best first, classes without videos last.

  Args:
    predictions: merged predictions of all hosts.
    task: the heads and their type.
    class_names: class names per head, by class id.
    results: results of `metrics.compute`, with the average precisions of a multi_label task.
  """
  found = {}
  for head in task.heads:
    if task.kind == 'multi_label':
      videos = (predictions.labels[predictions.seen] > 0).sum(axis=0)
      scores = results['tasks'][head]['average_precision']
    else:
      videos, right = class_counts(predictions, task, head)
      scores = [float(hits / n) if n else None for hits, n in zip(right, videos, strict=True)]
    rows = map(ClassScore, class_names[head], map(int, videos), scores)
    found[head] = sorted(rows, key=lambda row: 1.0 if row.score is None else -row.score)
  return found
