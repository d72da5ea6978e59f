# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch live where, and which part of the training state.

Which axis of which parameter the devices along `fsdp` share: one table.
"""

import itertools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ('data', 'fsdp')  # the axes along which devices have different clips


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, video: bool = False) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch; of videos also the frames."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *(['context'] if video else [])))


def leaf_name(path: Any) -> str:
  """Returns a/b/c for the path of a leaf, as the table of `sharding_rules` has it."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """Returns the tree of shardings of a training state, or of its parameters alone.

  Args:
    mesh: over which the table of `sharding_rules` splits large arrays.
    abstract_state: tree of arrays or shapes.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    axis = split_axis(leaf_name(path), leaf.shape, mesh.shape['fsdp'])
    names = [None] * axis + ['fsdp'] if axis is not None else []
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def with_sharding(mesh: Mesh, abstract_state: Any) -> Any:
  """Returns the shapes of a state with their shardings, which say how to restore it."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract_state,
    state_sharding(mesh, abstract_state),
  )


def shard_state(mesh: Mesh, state: Any) -> Any:
  """Returns a state that every process holds whole as device arrays, each device with its part."""
  return jax.tree.map(
    lambda x, where: jax.make_array_from_callback(x.shape, where, np.asarray(x).__getitem__),
    state,
    state_sharding(mesh, state),
  )


def host_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Returns the rows of a global batch that this process's devices own, ascending, each once."""
  blocks = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  starts = sorted({block[0].indices(batch_size)[:2] for block in blocks if block is not None})
  return list(itertools.chain.from_iterable(itertools.starmap(range, starts)))


def shard_batch(mesh: Mesh, rows: Any) -> Any:
  """Returns this process's rows of a batch (a tree of NumPy arrays) as global device arrays.

  Args:
    mesh: over which rows are split, and the frames of videos, the arrays of five axes.
    rows: those of `host_rows`, in their order.
  """
  count = jax.tree.leaves(rows)[0].shape[0]
  # The same share of every batch, so that any size whose blocks are rows of devices tells it.
  blocks = mesh.shape['data'] * mesh.shape['fsdp']
  size = count * blocks // len(host_rows(mesh, blocks))
  place = {row: i for i, row in enumerate(host_rows(mesh, size))}

  def put(x: np.ndarray) -> jax.Array:
    def part(index: Any) -> np.ndarray:
      low, high, _ = index[0].indices(size)
      return x[place[low] : place[low] + high - low, *index[1:]]

    sharding = batch_sharding(mesh, video=x.ndim == 5)
    return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

  return jax.tree.map(put, rows)


def local_rows(array: jax.Array) -> np.ndarray:
  """Returns this process's rows of a batch-sharded array."""
  shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
  return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])


# End of the path -> the axis of the model's width D, which is the one that all of them have. What
# no row names (biases, norms, cls tokens: below 0.2 % of a model) stays whole on every device, and
# so does what fsdp does not divide. Moments and averages lie as the parameters they belong to.
RULES = {
  r'tokenizer/kernel': -1,  # [t, h, w, c, D]
  r'position': -1,  # [1, tokens, D]
  r'(query|key|value)/kernel': 0,  # [D, heads, dim]
  r'attention\w*/out/kernel': -1,  # [heads, dim, D]
  r'mlp/hidden/kernel': 0,  # [D, mlp_dim]
  r'mlp/out/kernel': -1,  # [mlp_dim, D]
  r'head/kernel': 0,  # [D, classes]
}


def rule_of(path: str) -> str | None:
  """Returns the row of the table for a path such as 'params/spatial/block_0/mlp/hidden/kernel'."""
  return next((rule for rule in RULES if re.search(f'(^|/){rule}$', path)), None)


def split_axis(path: str, shape: tuple[int, ...], fsdp: int) -> int | None:
  """Returns which axis of an array of the training state is split over `fsdp` devices, if any.

  Args:
    path: in the state.
    shape: of the whole array.
    fsdp: devices along that axis of the mesh.
  """
  rule = rule_of(path)
  if fsdp == 1 or rule is None or shape[RULES[rule]] % fsdp:
    return None
  return RULES[rule] % len(shape)
