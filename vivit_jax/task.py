# SPDX-License-Identifier: Apache-2.0
"""How a task lays its heads out along the one class axis of the logits, and labels as targets."""

from itertools import accumulate

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vivit_jax.config import Task


def head_slices(task: Task) -> dict[str, slice]:
  """Returns where each head's classes lie along the last axis of the logits [B, sum(classes)]."""
  stops = list(accumulate(task.classes))
  starts = [0, *stops[:-1]]
  return {head: slice(*ends) for head, *ends in zip(task.heads, starts, stops, strict=True)}


def targets(task: Task, labels: Int[Array, 'b heads'] | Float[Array, 'b c']) -> Float[Array, 'b c']:
  """Returns target probabilities over the class axis.

  Args:
    task: single_label takes class ids [B, heads] and gives a one-hot row per head, concatenated;
      multi_label takes multi-hot rows [B, C] in {0, 1} and returns them.
    labels: as above.
  """
  if task.kind == 'multi_label':
    return labels.astype(jnp.float32)
  rows = [jax.nn.one_hot(labels[:, i], n) for i, n in enumerate(task.classes)]
  return jnp.concatenate(rows, axis=-1)
