# SPDX-License-Identifier: Apache-2.0
"""Which tokens lie where when several devices share a clip; nothing changes where they do not.

The mesh is the one that whoever compiles has entered (`jax.sharding.use_abstract_mesh`), with the
axes of config.Mesh: the model computes the same without.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from vivit_jax.distributed.sharding import split_axis

ROWS, CONTEXT = ('data', 'fsdp'), 'context'


def sharing() -> int:
  """Returns how many devices share a clip."""
  return jax.sharding.get_abstract_mesh().shape.get(CONTEXT, 1)


def device_kind() -> str:
  """Returns the kind of device that the program is for, e.g. 'TPU v5 lite' or 'cpu'."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device or jax.devices()[0]).device_kind


def compiled_for() -> str:
  """Returns the kind of device of the mesh, '' without one: for what changes no numbers.

  Asks JAX for no device, which shapes and costs of a model do not need.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else ''


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


def whole(params: Any, dtype: jax.typing.DTypeLike | None = None) -> Any:
  """Gathers parameters that devices share, just where they are used.

  Args:
    params: a tree whose paths end as `sharding_rules` has them.
    dtype: in which they travel and are used; their own by default. Only what is split is converted.
  """
  return jax.tree_util.tree_map_with_path(partial(whole_leaf, dtype=dtype), params)


def whole_leaf(path: Any, leaf: jax.Array, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
  """Gathers one parameter, as `whole` does."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  axis = split_axis(name, leaf.shape, _parts())
  if axis is None:
    return leaf
  own = PartitionSpec(*[None] * axis, 'fsdp')
  return _gather(leaf, own, jnp.dtype(dtype or leaf.dtype), leaf.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x: jax.Array, own: PartitionSpec, dtype: Any, stored: Any) -> jax.Array:
  x = jax.lax.with_sharding_constraint(x.astype(dtype), own)  # else XLA converts what it gathered
  return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _scatter(own: PartitionSpec, dtype: Any, stored: Any, _: None, g: jax.Array) -> Any:
  return (jax.lax.with_sharding_constraint(g, own).astype(stored),)


# The transpose of a constraint is the same constraint, a gradient that is whole on every device. A
# device needs the sum of its own part alone, which is half of the traffic.
_gather.defvjp(lambda x, own, dtype, stored: (_gather(x, own, dtype, stored), None), _scatter)


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
