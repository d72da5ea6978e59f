# SPDX-License-Identifier: Apache-2.0
"""Loss and step metrics of a task, from logits and target probabilities over all its heads."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from vivit_jax.config.schema import Task, head_slices


def loss(
  task: Task,
  logits: Float[Array, 'b c'],
  targets: Float[Array, 'b c'],
  label_smoothing: float = 0.0,
  class_weights: Float[Array, ' c'] | None = None,
) -> Float[Array, '']:
  """Returns the mean loss of a batch.

  For single_label the mean over heads of the softmax cross-entropy, as in Scenic; for multi_label
  the sigmoid cross-entropy summed over classes.

  Args:
    task: how the heads lie along the class axis.
    logits: over all heads.
    targets: probabilities in [0, 1]; they sum to 1 per head of a single_label task.
    label_smoothing: share of the target spread evenly over a head's classes (over both outcomes
      of each class for multi_label).
    class_weights: factors of each class's term, none if None; the mean stays that over the batch.
      For single_label as `weight` of PyTorch's cross-entropy for probabilities, for multi_label
      of both outcomes of the class.
  """
  if task.kind == 'multi_label':
    targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    terms = optax.sigmoid_binary_cross_entropy(logits, targets)
    return (terms if class_weights is None else terms * class_weights).sum(axis=-1).mean()
  heads = []
  for part in head_slices(task).values():
    smooth = optax.smooth_labels(targets[:, part], label_smoothing)
    if class_weights is not None:
      smooth *= class_weights[part]
    heads.append(optax.softmax_cross_entropy(logits[:, part], smooth).mean())
  return jnp.stack(heads).mean()


def accuracy(
  task: Task, logits: Float[Array, 'b c'], targets: Float[Array, 'b c']
) -> dict[str, Float[Array, '']]:
  """Returns what a training log shows: top-1 per head, or per-class accuracy for multi_label."""
  if task.kind == 'multi_label':
    return {'accuracy': ((logits > 0) == (targets > 0.5)).mean()}
  right = {
    head: jnp.argmax(logits[:, part], -1) == jnp.argmax(targets[:, part], -1)
    for head, part in head_slices(task).items()
  }
  result = {f'top1_{head}': hits.mean() for head, hits in right.items()}
  every = jnp.stack(list(right.values())).all(axis=0)
  return {'top1': every.mean(), **(result if len(right) > 1 else {})}


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
