# SPDX-License-Identifier: Apache-2.0
"""Gradients computed in parts of the batch: accumulated, or clipped per group before their mean."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

Gradient = Callable[[Any, Array, Array, Array], tuple[tuple[Array, Array], Any]]


def accumulated(gradient: Gradient, parts: int) -> Gradient:
  """Returns a function like `gradient` that needs the memory of one part of the batch only.

  Part k has the rows k, k + parts, ... All devices have the same number of them, so no clip moves
  between devices, and the parts do not depend on the number of devices.

  Args:
    gradient: (params, video, targets, key) -> ((mean loss, rows of logits), its gradient).
    parts: number of equal parts; must divide the batch.
  """

  def whole(params: Any, video: Array, targets: Array, key: Array) -> Any:
    def add(total: Any, number: Array) -> tuple[Any, Array]:
      # Indexed here, because passing the parts as scan inputs would copy the batch.
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
  """Returns `jax.value_and_grad(objective, has_aux=True)` with the gradient clipped per group.

  An outlier then reduces the weight of its own group only. Scenic clips per device; here groups are
  consecutive rows of the batch, so the result does not depend on the number of devices.

  Args:
    objective: (params, video, targets, key) -> (mean loss, rows of logits).
    groups: number of equal groups; must divide the batch.
    norm: maximum norm of a group's gradient.
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
