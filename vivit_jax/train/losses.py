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
  """
  if task.kind == 'multi_label':
    targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1).mean()
  heads = []
  for part in head_slices(task).values():
    smooth = optax.smooth_labels(targets[:, part], label_smoothing)
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


def as_pixels(video: Array) -> Float[Array, 'b f h w c']:
  """Returns video of [0, 255], uint8 or blended, scaled to float32 in [-1, 1]."""
  return video.astype(jnp.float32) / 127.5 - 1.0


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
