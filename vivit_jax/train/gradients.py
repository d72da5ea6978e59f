# SPDX-License-Identifier: Apache-2.0
"""The gradient of a large batch from small parts of it, one after the other.

Gradients clipped per part of the batch, before their mean.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

Gradient = Callable[[Any, Array, Array, Array], tuple[tuple[Array, Array], Any]]


def accumulated(gradient: Gradient, parts: int) -> Gradient:
  """Returns what `gradient` does, in the memory of a part of the batch.

  Part k has the rows k, k + parts, ...: of every device as many, so that no clip crosses devices,
  and the same ones on any number of devices.

  Args:
    gradient: (params, video, targets, key) -> ((mean loss, rows of logits), its gradient).
    parts: of equal size; the batch must be a multiple.
  """

  def whole(params: Any, video: Array, targets: Array, key: Array) -> Any:
    def add(total: Any, number: Array) -> tuple[Any, Array]:
      # Cut out here: as an argument of the scan a second copy of the batch would be made.
      clips, rows = (
        jax.lax.dynamic_index_in_dim(x.reshape(-1, parts, *x.shape[1:]), number, 1, keepdims=False)
        for x in (video, targets)
      )
      (loss, logits), gradients = gradient(params, clips, rows, jax.random.fold_in(key, number))
      return optax.tree.add(total, (loss, gradients)), logits

    nothing = jnp.zeros(()), optax.tree.zeros_like(params)
    total, logits = jax.lax.scan(add, nothing, jnp.arange(parts))
    loss, gradients = optax.tree.scale(1.0 / parts, total)
    return (loss, logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])), gradients

  return whole


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
