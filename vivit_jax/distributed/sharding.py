# SPDX-License-Identifier: Apache-2.0
"""Sharding of batches and of the training state on a mesh."""

import itertools
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from vivit_jax.config.sharding_rules import split_axis

BATCH_AXES = ('data', 'fsdp')  # mesh axes over which the batch is sharded


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that is replicated on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, video: bool = False) -> NamedSharding:
  """Returns the sharding of arrays with a leading batch axis; for videos, frames are split too."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES, *(['context'] if video else [])))


def leaf_name(path: Any) -> str:
  """Returns the path of a leaf as a/b/c, the form that RULES match."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """Returns the shardings of a training state, or of parameters alone, as a tree.

  Args:
    mesh: the mesh; RULES shard large arrays over its axis `fsdp`.
    abstract_state: tree of arrays or ShapeDtypeStructs.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    axis = split_axis(leaf_name(path), leaf.shape, mesh.shape['fsdp'])
    names = [None] * axis + ['fsdp'] if axis is not None else []
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def with_sharding(mesh: Mesh, abstract_state: Any) -> Any:
  """Returns the abstract state with shardings, as needed to restore a checkpoint."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract_state,
    state_sharding(mesh, abstract_state),
  )


def shard_state(mesh: Mesh, state: Any) -> Any:
  """Returns a state as sharded device arrays; every process has the whole state in host memory."""
  return jax.tree.map(
    lambda x, where: jax.make_array_from_callback(x.shape, where, np.asarray(x).__getitem__),
    state,
    state_sharding(mesh, state),
  )


def host_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """Returns the row indices of a global batch on this process's devices, sorted and unique."""
  blocks = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  starts = sorted({block[0].indices(batch_size)[:2] for block in blocks if block is not None})
  return list(itertools.chain.from_iterable(itertools.starmap(range, starts)))


def shard_batch(mesh: Mesh, rows: Any) -> Any:
  """Returns this process's rows of a batch (a tree of NumPy arrays) as global device arrays.

  Args:
    mesh: the mesh; it splits the rows and, in videos and patches (four or more axes), the frames.
    rows: the rows with the indices of `host_rows`, in that order.
  """
  count = jax.tree.leaves(rows)[0].shape[0]
  # The fraction of a batch in a process is constant, so compute it for one row per block.
  blocks = mesh.shape['data'] * mesh.shape['fsdp']
  size = count * blocks // len(host_rows(mesh, blocks))
  place = {row: i for i, row in enumerate(host_rows(mesh, size))}

  def put(x: np.ndarray) -> jax.Array:
    def part(index: Any) -> np.ndarray:
      low, high, _ = index[0].indices(size)
      return x[place[low] : place[low] + high - low, *index[1:]]

    sharding = batch_sharding(mesh, video=x.ndim > 3)
    return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

  return jax.tree.map(put, rows)


def local_rows(array: jax.Array) -> np.ndarray:
  """Returns this process's rows of a batch-sharded array."""
  shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
  return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
