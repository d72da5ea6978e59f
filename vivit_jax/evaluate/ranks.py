# SPDX-License-Identifier: Apache-2.0
"""Ranks of the true class, top-1/top-5 hits and probabilities, per head and jointly."""

from collections.abc import Sequence
from math import prod

import numpy as np
from jaxtyping import Bool, Float, Int

from vivit_jax.config.schema import Task, head_slices

TOP = (1, 5)


def metric_names(task: Task) -> tuple[str, ...]:
  """Returns the metric names of a single_label task: its heads, then the joint metric if any."""
  return (*task.heads, task.joint) if task.joint else task.heads


def finite_or_worst(logits: Float[np.ndarray, 'n c']) -> Float[np.ndarray, 'n c']:
  """Returns the logits with NaN and infinities replaced by -inf, so that they rank last."""
  return np.where(np.isfinite(logits), logits, -np.inf)


def ranks(logits: Float[np.ndarray, 'n c'], truth: Int[np.ndarray, 'n']) -> Int[np.ndarray, 'n']:
  """Returns the rank of the true class; 0 = it is the predicted class.

  Ties go to the lower class id, so that equal logits for all classes predict only one class.

  Args:
    logits: logits of any scale. A non-finite logit of the true class gives rank c, the worst.
    truth: true class ids in [0, c).
  """
  logits = finite_or_worst(logits)
  own = np.take_along_axis(logits, truth[:, None], axis=1)
  lower_id = np.arange(logits.shape[1]) < truth[:, None]
  before = (logits > own) | ((logits == own) & lower_id)
  return np.where(np.isfinite(own[:, 0]), before.sum(axis=1), logits.shape[1])


def joint_ranks(
  logits: Sequence[Float[np.ndarray, 'n _']], head_ranks: Sequence[Int[np.ndarray, 'n']]
) -> Int[np.ndarray, 'n']:
  """Returns the rank of the true class combination by the product of the heads' softmaxes.

  Within a head, all classes have the same softmax denominator, so the sum of logits gives the same
  ranking. A combination in the top five consists of classes in the top five of their heads, so only
  5 ** heads combinations per video are compared instead of all (e.g. 97 * 300 = 29,100).

  Args:
    logits: per head [n, classes].
    head_ranks: per head, the `ranks` of the true class.

  Returns:
    The exact rank if it is below 5, otherwise some number >= 5. It is 0 if and only if all heads
    are right.
  """
  kept = [min(max(TOP), head.shape[1]) for head in logits]
  sums = np.zeros((len(head_ranks[0]), 1))
  for head, k in zip(logits, kept, strict=True):
    best = -np.sort(-finite_or_worst(head).astype(np.float64), axis=1)[:, :k]
    sums = (sums[:, :, None] + best[:, None, :]).reshape(len(sums), sums.shape[1] * k)

  within = np.all([rank < k for rank, k in zip(head_ranks, kept, strict=True)], axis=0)
  places = [np.minimum(rank, k - 1) for rank, k in zip(head_ranks, kept, strict=True)]
  # Ties go to the combination with higher-ranked classes, so rank 0 implies that all heads are 0.
  return np.where(within, ranks(sums, np.ravel_multi_index(places, kept)), prod(kept) + max(TOP))


def hits(
  logits: Float[np.ndarray, 'n c'], labels: Int[np.ndarray, 'n heads'], task: Task
) -> Bool[np.ndarray, 'n metrics 2']:
  """Returns whether the true class is in the top 1 and in the top 5, for each metric.

  Args:
    logits: logits of all heads, concatenated along the last axis.
    labels: true class ids per head.
    task: a single_label task; `metric_names` gives the order of the second axis. With fewer than
      five classes (or combinations, for the joint metric), the top 5 is all of them.
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
  """Returns the softmax of each head's logits, or for a multi_label task the sigmoids."""
  if task.kind == 'multi_label':
    return np.exp(-np.logaddexp(0.0, -logits))  # 1 / (1 + exp(-x)) overflows for large -x
  parts = [logits[:, part] for part in head_slices(task).values()]
  powers = [np.exp(part - part.max(axis=1, keepdims=True)) for part in parts]
  return np.concatenate([power / power.sum(axis=1, keepdims=True) for power in powers], axis=1)
