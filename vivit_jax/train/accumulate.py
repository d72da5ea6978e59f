# SPDX-License-Identifier: Apache-2.0
"""The gradient of a large batch from small parts of it, one after the other."""

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

  def split(x: Array) -> Array:
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

  def whole(params: Any, video: Array, targets: Array, key: Array) -> Any:
    def add(total: Any, part: tuple[Array, Array, Array]) -> tuple[Any, Array]:
      (loss, logits), gradients = gradient(params, *part)
      return optax.tree.add(total, (loss, gradients)), logits

    total, logits = jax.lax.scan(
      add,
      (jnp.zeros(()), optax.tree.zeros_like(params)),
      (split(video), split(targets), jax.random.split(key, parts)),
    )
    loss, gradients = optax.tree.scale(1.0 / parts, total)
    return (loss, logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])), gradients

  return whole
