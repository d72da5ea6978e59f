# SPDX-License-Identifier: Apache-2.0
"""Accuracy, mean average precision, confusion matrices and most confident mistakes."""

import dataclasses
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import average_precision_score

from vivit_jax.config.schema import Evaluate, Task, head_slices
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.classes import mean_accuracy
from vivit_jax.evaluate.ranks import TOP, finite_or_worst, hits, metric_names, probabilities


def compute(predictions: Predictions, task: Task, protocol: Evaluate) -> dict[str, Any]:
  """Returns the metrics of an evaluation as JSON values.

  Args:
    predictions: merged predictions of all hosts; videos without a view are counted as `skipped`.
    task: the heads and their type.
    protocol: test settings; its number of views is reported as `views`.

  Returns:
    `videos` and `clips`, the numbers scored; `views`; `skipped`; and `tasks`, with a dictionary per
    head and one for the joint metric. Each has its number of `classes` and these fractions in
    [0, 1], NaN if nothing was scored:
      single_label: `top1` of videos and `clip_top1` of single views; `top5` and `clip_top5` if
        there are more than five classes; for heads also `class_top1`, the mean over classes of
        their `top1`. The top level repeats those of the joint metric, or else of the first head.
      multi_label: `mAP`, the mean over classes with positive videos, also at the top level; per
        head `average_precision` by class (None without positives) and the number
        `classes_without_positives`.
  """
  if task.kind == 'multi_label':
    tasks = {task.heads[0]: _precision(predictions)}
    headline = {'mAP': tasks[task.heads[0]]['mAP']}
  else:
    tasks = _accuracies(predictions, task)
    headline = tasks[metric_names(task)[-1] if task.joint else task.heads[0]]
  for head, count in zip(task.heads, task.classes, strict=True):
    tasks[head]['classes'] = count
  if task.joint:
    tasks[task.joint]['classes'] = prod(task.classes)
  for scores in tasks.values():
    if scores['classes'] <= max(TOP):  # top-5 of five classes is always right
      for name in ('top5', 'clip_top5'):
        scores.pop(name, None)
  return {
    **{name: value for name, value in headline.items() if name != 'classes'},
    'videos': len(predictions.seen),
    'clips': int(predictions.views.sum()),
    'views': {'temporal': protocol.temporal_views, 'spatial': protocol.spatial_views},
    'skipped': int(np.count_nonzero(predictions.views == 0)),
    'tasks': tasks,
  }


def _accuracies(predictions: Predictions, task: Task) -> dict[str, dict[str, Any]]:
  """Returns top-1 and top-5 of videos and of single views, for each metric of the task."""
  seen = predictions.seen
  right = hits(predictions.mean_logits(), predictions.labels[seen], task).sum(axis=0)
  videos, clips = len(seen) or np.nan, predictions.views.sum() or np.nan
  return {
    name: {
      'top1': float(right[i, 0] / videos),
      'top5': float(right[i, 1] / videos),
      'clip_top1': float(predictions.clip_hits[i, 0] / clips),
      'clip_top5': float(predictions.clip_hits[i, 1] / clips),
    }
    | ({'class_top1': mean_accuracy(predictions, task, name)} if name in task.heads else {})
    for i, name in enumerate(metric_names(task))
  }


def _precision(predictions: Predictions) -> dict[str, Any]:
  """Returns the average precision of each class with positive videos, and their mean."""
  logits, labels = predictions.mean_logits(), predictions.labels[predictions.seen] > 0
  finite = np.isfinite(logits)
  # scikit-learn rejects infinities; a value below all finite logits gives the same ranking.
  worst = np.nextafter(logits[finite].min(initial=0.0), -np.inf)
  scores = np.where(finite, logits, worst)
  precisions = [
    float(average_precision_score(truth, score)) if truth.any() else None
    for truth, score in zip(labels.T, scores.T, strict=True)
  ]
  scored = [precision for precision in precisions if precision is not None]
  return {
    'mAP': float(np.mean(scored)) if scored else float('nan'),
    'average_precision': precisions,
    'classes_without_positives': len(precisions) - len(scored),
  }


def confusion(predictions: Predictions, task: Task, head: str) -> Int[np.ndarray, 'c c']:
  """Returns the number of videos by true class (row) and predicted class (column).

  Videos whose logits for the head are all non-finite have no prediction and are ignored. It is
  computed with NumPy because scikit-learn's confusion_matrix fails without videos and warns about
  a single class.

  Args:
    predictions: predictions of a single_label task.
    task: the single_label task.
    head: one of the task's heads.
  """
  logits = predictions.mean_logits()[:, head_slices(task)[head]]
  truth = predictions.labels[predictions.seen, task.heads.index(head)].astype(np.int64)
  valid = np.isfinite(logits).any(axis=1)
  predicted = finite_or_worst(logits).argmax(axis=1)
  classes = logits.shape[1]
  pairs = truth[valid] * classes + predicted[valid]
  return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: Int[np.ndarray, 'c c'], n: int) -> list[tuple[int, int, int]]:
  """Returns up to n most frequent confusions: (true class, predicted class, number of videos)."""
  wrong = matrix - np.diag(np.diag(matrix))
  order = np.argsort(-wrong, axis=None, kind='stable')[:n]
  rows, columns = np.unravel_index(order, wrong.shape)
  return [
    (int(row), int(column), int(wrong[row, column]))
    for row, column in zip(rows, columns, strict=True)
    if wrong[row, column]
  ]


@dataclasses.dataclass(frozen=True)
class Mistake:
  """A video with a wrong prediction."""

  video: int  # index in the manifest
  truth: str  # class name; names of all heads if the task has a joint metric
  predicted: str
  confidence: float  # probability of the predicted class, in [0, 1]


def most_confident_mistakes(
  predictions: Predictions, task: Task, class_names: Mapping[str, Sequence[str]], n: int
) -> list[Mistake]:
  """Returns up to n wrong predictions, the most confident first.

  single_label: the prediction of the headline metric (all heads if joint, otherwise the first) is
  wrong; its confidence is the product of the heads' softmax probabilities. multi_label: the class
  with the highest sigmoid is not among the labels. Videos with non-finite logits are ignored.

  Args:
    predictions: merged predictions of all hosts.
    task: the heads and their type.
    class_names: class names per head, by class id.
    n: maximum number of mistakes.
  """
  logits = predictions.mean_logits()
  finite = np.isfinite(logits).all(axis=1)
  ids, logits = predictions.seen[finite], logits[finite]
  shares = probabilities(logits, task)
  labels = predictions.labels[ids]
  if task.kind == 'multi_label':
    found = _false_alarms(ids, logits, shares, labels, class_names[task.heads[0]])
  else:
    found = _wrong_predictions(ids, shares, labels.astype(np.int64), task, class_names)
  return sorted(found, key=lambda mistake: (-mistake.confidence, mistake.video))[:n]


def _wrong_predictions(
  ids: Int[np.ndarray, 'n'],
  shares: Float[np.ndarray, 'n c'],
  labels: Int[np.ndarray, 'n heads'],
  task: Task,
  class_names: Mapping[str, Sequence[str]],
) -> list[Mistake]:
  """Returns all videos with a wrong prediction in any head of the headline metric."""
  heads = task.heads if task.joint else task.heads[:1]
  parts = [shares[:, head_slices(task)[head]] for head in heads]
  predicted = np.stack([part.argmax(axis=1) for part in parts], axis=1)
  confidence = np.prod([part.max(axis=1) for part in parts], axis=0)
  labels = labels[:, : len(heads)]

  def named(row: Int[np.ndarray, 'heads']) -> str:
    return ' · '.join(class_names[head][i] for head, i in zip(heads, row, strict=True))

  return [
    Mistake(int(ids[i]), named(labels[i]), named(predicted[i]), float(confidence[i]))
    for i in np.flatnonzero((predicted != labels).any(axis=1))
  ]


def _false_alarms(
  ids: Int[np.ndarray, 'n'],
  logits: Float[np.ndarray, 'n c'],
  shares: Float[np.ndarray, 'n c'],
  labels: Float[np.ndarray, 'n c'],
  names: Sequence[str],
) -> list[Mistake]:
  """Returns all videos whose most probable class is not among the labels."""
  found = []
  for i, top in enumerate(logits.argmax(axis=1)):  # logits, because sigmoids may round to 1
    if labels[i, top] > 0:
      continue
    truth = ', '.join(names[int(c)] for c in np.flatnonzero(labels[i] > 0)) or 'none'
    found.append(Mistake(int(ids[i]), truth, names[int(top)], float(shares[i, top])))
  return found
