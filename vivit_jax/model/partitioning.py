# SPDX-License-Identifier: Apache-2.0
"""Sharding constraints inside the model; no-ops if neither clips nor parameters are sharded.

The mesh is the one that the caller of `jit` has set (`jax.sharding.use_abstract_mesh`), with the
axes of config.Mesh. Results do not depend on the mesh.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from vivit_jax.config.sharding_rules import split_axis

BATCH_AXES, CONTEXT = ('data', 'fsdp'), 'context'


def context_size() -> int:
  """Returns the number of devices that share a clip."""
  return jax.sharding.get_abstract_mesh().shape.get(CONTEXT, 1)


def device_kind() -> str:
  """Returns the device kind that the program is compiled for, e.g. 'TPU v5 lite' or 'cpu'."""
  return compiled_for() or jax.devices()[0].device_kind


def compiled_for() -> str:
  """Returns the device kind of the mesh, or '' without a mesh; only for choices of layout.

  Does not initialize JAX's devices, so that shapes and costs can be computed without them.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else ''


def rows_divide(batch: int) -> bool:
  """Returns whether a batch is divisible by the number of devices along the batch axes."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return batch % math.prod(sizes.get(axis, 1) for axis in BATCH_AXES) == 0


def constrain_batch(x: Float[Array, 'b *rest']) -> Float[Array, 'b *rest']:
  """Keeps the batch sharded; otherwise XLA might move clips instead of gathering parameters."""
  return _constrain(x)


def shard_context(x: Float[Array, 'b n *rest']) -> Float[Array, 'b n *rest']:
  """Splits axis 1 (frames, or tokens frame by frame) over the devices that share a clip."""
  return _constrain(x, CONTEXT)


def gather_context(x: Float[Array, 'b n *rest']) -> Float[Array, 'b n *rest']:
  """Gathers axis 1 on all devices that share a clip."""
  return _constrain(x, None)


def _constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains the batch axis and the following `axes`; leaves the other axes to XLA."""
  sizes = jax.sharding.get_abstract_mesh().shape
  if sizes.get('fsdp', 1) == sizes.get(CONTEXT, 1) == 1:
    return x
  free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1 - len(axes))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *axes, *free))


def gather_params(params: Any, dtype: jax.typing.DTypeLike | None = None) -> Any:
  """Gathers sharded parameters right before they are used.

  Args:
    params: parameter tree with paths as in `sharding_rules`.
    dtype: type in which sharded parameters are sent and used; by default their own. Replicated
      parameters are not converted.
  """
  return jax.tree_util.tree_map_with_path(partial(gather_leaf, dtype=dtype), params)


def gather_leaf(path: Any, leaf: Any, dtype: jax.typing.DTypeLike | None = None) -> Any:
  """Gathers one parameter, as `gather_params` does."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  axis = split_axis(name, leaf.shape, _fsdp_size())
  if axis is None:
    return leaf
  own = PartitionSpec(*[None] * axis, 'fsdp')
  return _gather(leaf, own, jnp.dtype(dtype or leaf.dtype), leaf.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x: jax.Array, own: PartitionSpec, dtype: Any, stored: Any) -> jax.Array:
  x = jax.lax.with_sharding_constraint(x.astype(dtype), own)  # convert before the gather
  return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _scatter(own: PartitionSpec, dtype: Any, stored: Any, _: None, g: jax.Array) -> Any:
  return (jax.lax.with_sharding_constraint(g, own).astype(stored),)


# The transpose of a sharding constraint is the same constraint, which would replicate the whole
# gradient. Each device needs only the sum of its own shard, at half the traffic.
_gather.defvjp(lambda x, own, dtype, stored: (_gather(x, own, dtype, stored), None), _scatter)


def _fsdp_size() -> int:
  return jax.sharding.get_abstract_mesh().shape.get('fsdp', 1)


def on_each_device(
  kernel: Callable[..., jax.Array],
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
) -> Float[Array, '*b q h d']:
  """Runs an attention kernel that XLA cannot partition with shard_map, along axis 1.

  If axis 1 is the query axis, every device has all keys and values.
  """
  devices, count = context_size(), query.shape[1]
  if jax.sharding.get_abstract_mesh().empty:
    return kernel(query, key, value)
  own = PartitionSpec(BATCH_AXES, CONTEXT)
  keys = PartitionSpec(BATCH_AXES) if query.ndim == 4 else own

  def filled(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return (
      jnp.pad(x, [(0, 0), (0, -count % devices), *[(0, 0)] * (x.ndim - 2)]) if spec == own else x
    )

  # check_vma is off because Pallas does not declare along which axes its results vary.
  split_kernel = jax.shard_map(kernel, in_specs=(own, keys, keys), out_specs=own, check_vma=False)
  return split_kernel(filled(query, own), filled(key, keys), filled(value, keys))[:, :count]
