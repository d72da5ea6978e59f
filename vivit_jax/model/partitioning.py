# SPDX-License-Identifier: Apache-2.0
"""Which tokens lie where when several devices share a clip; nothing changes where they do not.

The mesh is the one that whoever compiles has entered (`jax.sharding.use_abstract_mesh`), with the
axes of config.Mesh: the model computes the same without.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

ROWS, CONTEXT = ('data', 'fsdp'), 'context'


def sharing() -> int:
  """Returns how many devices share a clip."""
  return jax.sharding.get_abstract_mesh().shape.get(CONTEXT, 1)


def device_kind() -> str:
  """Returns the kind of device that the program is for, e.g. 'TPU v5 lite' or 'cpu'."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device or jax.devices()[0]).device_kind


def rows_divide(batch: int) -> bool:
  """Returns whether each device can have as many whole clips of a batch, or parts of them."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return batch % math.prod(sizes.get(axis, 1) for axis in ROWS) == 0


def apart(x: Float[Array, 'b *rest']) -> Float[Array, 'b *rest']:
  """Keeps the clips where they are, where XLA might rather move them than gather parameters."""
  return _place(x)


def split(x: Float[Array, 'b n *rest']) -> Float[Array, 'b n *rest']:
  """Gives each device that shares a clip its part of axis 1: frames, or tokens frame by frame."""
  return _place(x, CONTEXT)


def gathered(x: Float[Array, 'b n *rest']) -> Float[Array, 'b n *rest']:
  """Gives each device that shares a clip all of axis 1."""
  return _place(x, None)


def _place(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains the first axes: that of the batch, and the ones after it."""
  sizes = jax.sharding.get_abstract_mesh().shape
  if sizes.get('fsdp', 1) == sizes.get(CONTEXT, 1) == 1:
    return x
  free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1 - len(axes))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS, *axes, *free))


def whole(params: Any) -> Any:
  """Gathers parameters that devices share, just where they are used."""
  if _parts() == 1:
    return params
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), params)


def _parts() -> int:
  return jax.sharding.get_abstract_mesh().shape.get('fsdp', 1)


def on_each_device(
  kernel: Callable[..., jax.Array],
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
) -> Float[Array, '*b q h d']:
  """Runs an attention kernel that XLA cannot split, on each device for its part of axis 1.

  Where axis 1 is that of the queries, every device sees all keys and values.
  """
  devices, count = sharing(), query.shape[1]
  if jax.sharding.get_abstract_mesh().empty:
    return kernel(query, key, value)
  own = PartitionSpec(ROWS, CONTEXT)
  keys = PartitionSpec(ROWS) if query.ndim == 4 else own

  def filled(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return (
      jnp.pad(x, [(0, 0), (0, -count % devices), *[(0, 0)] * (x.ndim - 2)]) if spec == own else x
    )

  # Unchecked, since Pallas does not say along which axes its results vary.
  split_kernel = jax.shard_map(kernel, in_specs=(own, keys, keys), out_specs=own, check_vma=False)
  return split_kernel(filled(query, own), filled(key, keys), filled(value, keys))[:, :count]
