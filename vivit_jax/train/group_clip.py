# SPDX-License-Identifier: Apache-2.0
"""Gradients clipped per part of the batch, before their mean."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array

Objective = Callable[[Any, Array, Array, Array], tuple[Array, Array]]


def clipped_by_group(objective: Objective, groups: int, norm: float) -> Callable:
  """Returns what `jax.value_and_grad(objective, has_aux=True)` does, part by part of the batch.

  One unusual clip then bounds the share of its own group alone. Scenic clips so, its groups being
  the devices; here they are neighbours in the batch, on however many devices.

  Args:
    objective: (params, video, targets, key) -> (mean loss, rows of logits).
    groups: of equal size; B must be a multiple.
    norm: largest norm of a group's gradient.
  """

  def split(x: Array) -> Array:
    return x.reshape(groups, -1, *x.shape[1:])

  def gradient(params: Any, video: Array, targets: Array, key: Array) -> Any:
    def one(video: Array, targets: Array, key: Array) -> Any:
      value, gradients = jax.value_and_grad(objective, has_aux=True)(params, video, targets, key)
      scale = 1.0 / jax.numpy.maximum(1.0, optax.tree.norm(gradients) / norm)
      return value, optax.tree.scale(scale, gradients)

    (losses, logits), gradients = jax.vmap(one)(
      split(video), split(targets), jax.random.split(key, groups)
    )
    mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), gradients)
    return (losses.mean(), logits.reshape(-1, logits.shape[-1])), mean

  return gradient
