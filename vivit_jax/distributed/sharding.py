# SPDX-License-Identifier: Apache-2.0
"""Sharding of batches and of the training state over the devices of a mesh."""

import itertools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ('data', 'fsdp')  # the axes along which devices have different clips


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds completely."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, video: bool = False) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch; videos also split the frames."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *(['context'] if video else [])))


def leaf_name(path: Any) -> str:
  """Returns the path of a leaf as a/b/c, which RULES match."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """Returns the tree of shardings of a training state, or of its parameters alone.

  Args:
    mesh: RULES split large arrays over its axis `fsdp`.
    abstract_state: tree of arrays or shapes.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    axis = split_axis(leaf_name(path), leaf.shape, mesh.shape['fsdp'])
    names = [None] * axis + ['fsdp'] if axis is not None else []
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def with_sharding(mesh: Mesh, abstract_state: Any) -> Any:
  """Returns the shapes of a state with their shardings, as needed to restore it."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract_state,
    state_sharding(mesh, abstract_state),
  )


def shard_state(mesh: Mesh, state: Any) -> Any:
  """Returns device arrays of a state that every process holds completely in host memory."""
  return jax.tree.map(
    lambda x, where: jax.make_array_from_callback(x.shape, where, np.asarray(x).__getitem__),
    state,
    state_sharding(mesh, state),
  )


def host_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Returns the rows of a global batch on this process's devices, ascending, without repeats."""
  blocks = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  starts = sorted({block[0].indices(batch_size)[:2] for block in blocks if block is not None})
  return list(itertools.chain.from_iterable(itertools.starmap(range, starts)))


def shard_batch(mesh: Mesh, rows: Any) -> Any:
  """Returns this process's rows of a batch (a tree of NumPy arrays) as global device arrays.

  Args:
    mesh: splits the rows and, for videos (arrays of five axes), the frames.
    rows: those of `host_rows`, in their order.
  """
  count = jax.tree.leaves(rows)[0].shape[0]
  # A process has the same fraction of every batch, so a batch of one row per block tells it.
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


# End of the path -> the axis that is split over `fsdp`: the model's width D, which all of these
# have. All other arrays (biases, norms, cls tokens: below 0.2 % of a model) are replicated, and so
# are those that fsdp does not divide. Moments and averages are sharded like their parameters.
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
