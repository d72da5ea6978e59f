# SPDX-License-Identifier: Apache-2.0
"""From logits to ranks of the true class, hits and probabilities, per head and for all heads."""

from collections.abc import Sequence
from math import prod

import numpy as np
from jaxtyping import Bool, Float, Int

from vivit_jax.config.schema import Task, head_slices

TOP = (1, 5)


def metric_names(task: Task) -> tuple[str, ...]:
  """Returns the metrics of a single_label task: its heads, then the joint metric if any."""
  return (*task.heads, task.joint) if task.joint else task.heads


def finite_or_worst(logits: Float[np.ndarray, 'n c']) -> Float[np.ndarray, 'n c']:
  """Returns the logits with -inf for every NaN and infinity, so that they rank last."""
  return np.where(np.isfinite(logits), logits, -np.inf)


def ranks(logits: Float[np.ndarray, 'n c'], truth: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'n']:
  """Returns how many classes come before the true one, 0 = predicted.

  Ties go to the lower class id, so a constant predictor scores one class and not all of them.

  Args:
    logits: any scale; a truth whose logit is not finite gets rank c, worse than any other.
    truth: class ids in [0, c).
  """
  logits = finite_or_worst(logits)
  own = np.take_along_axis(logits, truth[:, None], axis=1)
  lower_id = np.arange(logits.shape[1]) < truth[:, None]
  before = (logits > own) | ((logits == own) & lower_id)
  return np.where(np.isfinite(own[:, 0]), before.sum(axis=1), logits.shape[1])


def joint_ranks(
  logits: Sequence[Float[np.ndarray, 'n _']], head_ranks: Sequence[Int[np.ndarray, 'n']]
) -> Int[np.ndarray, 'n']:
  """Returns the rank of the true combination by the product of the heads' softmaxes, up to 4.

  The softmax's denominator is the same for all classes of a head, so the sum of logits ranks as the
  product does. A combination in the first five has each of its classes in the first five of its
  head, so 5 ** heads combinations a video are compared instead of all (97 * 300 = 29,100, say).

  Args:
    logits: per head [n, classes].
    head_ranks: per head, `ranks` of the truth.

  Returns:
    The exact rank where it is below 5, else any larger number; 0 exactly if all heads are right.
  """
  kept = [min(max(TOP), head.shape[1]) for head in logits]
  sums = np.zeros((len(head_ranks[0]), 1))
  for head, k in zip(logits, kept, strict=True):
    best = -np.sort(-finite_or_worst(head).astype(np.float64), axis=1)[:, :k]
    sums = (sums[:, :, None] + best[:, None, :]).reshape(len(sums), sums.shape[1] * k)

  within = np.all([rank < k for rank, k in zip(head_ranks, kept, strict=True)], axis=0)
  places = [np.minimum(rank, k - 1) for rank, k in zip(head_ranks, kept, strict=True)]
  # Ties go to the combination whose classes rank higher: the truth is first only if all heads are.
  return np.where(within, ranks(sums, np.ravel_multi_index(places, kept)), prod(kept) + max(TOP))


def hits(
  logits: Float[np.ndarray, 'n c'], labels: Int[np.ndarray, 'n heads'], task: Task
) -> Bool[np.ndarray, 'n metrics 2']:
  """Returns whether the truth is the first, and among the first five, for each metric.

  Args:
    logits: over the class axis of all heads.
    labels: class ids per head.
    task: a single_label task; its `metric_names` order the second axis. Five is clipped to the
      number of classes (of combinations for the joint metric).
  """
  heads = [logits[:, part] for part in head_slices(task).values()]
  rows = [ranks(head, labels[:, i]) for i, head in enumerate(heads)]
  counts = list(task.classes)
  if task.joint:
    rows = [*rows, joint_ranks(heads, rows)]
    counts = [*counts, prod(counts)]
  limits = np.minimum(np.array(TOP), np.array(counts)[:, None])
  return np.stack(rows, axis=1)[:, :, None] < limits


def probabilities(logits: Float[np.ndarray, 'n c'], task: Task) -> Float[np.ndarray, 'n c']:
  """Returns the softmax of each head's logits, or of a multi_label task the sigmoid of each."""
  if task.kind == 'multi_label':
    return np.exp(-np.logaddexp(0.0, -logits))  # 1 / (1 + exp(-x)) overflows for large -x
  parts = [logits[:, part] for part in head_slices(task).values()]
  powers = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
  return np.concatenate([power / power.sum(axis=1, keepdims=True) for power in powers], axis=1)
