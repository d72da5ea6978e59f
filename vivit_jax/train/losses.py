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

  For single_label, the softmax cross-entropy averaged over heads, as in Scenic; for multi_label,
  the sigmoid cross-entropy summed over classes.

  Args:
    task: defines the layout of the heads along the class axis.
    logits: logits of all heads.
    targets: probabilities in [0, 1]; they sum to 1 per head of a single_label task.
    label_smoothing: fraction of the target that is spread evenly over a head's classes (for
      multi_label, over the two outcomes of each class).
    class_weights: factor for each class's term, or None; the mean is still over the batch. For
      single_label, like `weight` of PyTorch's cross-entropy with probabilities; for multi_label,
      it applies to both outcomes of the class.
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
  """Returns metrics for the training log: top-1 per head, or mean accuracy for multi_label."""
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
    task: for single_label, labels are class ids [B, heads] and the result has concatenated one-hot
      rows of all heads; for multi_label, labels are multi-hot rows [B, C] in {0, 1}, returned as
      they are.
    labels: see task.
  """
  if task.kind == 'multi_label':
    return labels.astype(jnp.float32)
  rows = [jax.nn.one_hot(labels[:, i], n) for i, n in enumerate(task.classes)]
  return jnp.concatenate(rows, axis=-1)
