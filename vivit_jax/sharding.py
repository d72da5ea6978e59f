# SPDX-License-Identifier: Apache-2.0
"""Devices as a mesh, which rows of a batch live where, and which part of the training state."""

import itertools
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from vivit_jax.config import Config
from vivit_jax.config_mesh import AXES, check_devices
from vivit_jax.errors import ConfigError
from vivit_jax.sharding_rules import split_axis

ROWS = ('data', 'fsdp')  # the axes along which devices have different clips


def make_mesh(config: Config | None, devices: list[jax.Device] | None = None) -> Mesh:
  """Returns a mesh over `devices` (all of them by default), on which a given experiment must fit.

  Without an experiment all devices lie along `data`.

  Raises:
    ConfigError: where the mesh does not fit the devices or a batch does not divide.
  """
  try:
    devices = devices or jax.devices()
  except RuntimeError as error:  # JAX_PLATFORMS asks for what is not there
    raise ConfigError(f'JAX finds no device: {" ".join(str(error).split())}') from None
  shape = (len(devices), 1, 1) if config is None else check_devices(config, len(devices))
  grid = _by_host(shape, devices) if shape[2] > 1 else _by_network(shape, devices)
  return Mesh(grid, AXES)


def _by_host(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
  """Returns a grid in which the devices that share a clip are neighbours on one host."""
  grid = np.array(sorted(devices, key=lambda d: (_slice(d), d.process_index, d.id))).reshape(shape)
  for group in grid.reshape(-1, shape[2]):
    hosts = sorted({device.process_index for device in group})
    if len(hosts) > 1:
      raise ConfigError(
        f'config.mesh.context={shape[2]} would split a clip over the hosts {hosts}, but a host '
        'decodes whole clips: give a divisor of the devices of a host'
      )
  return grid


def _by_network(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
  """Returns a grid whose axes follow the network; slices are far from each other, along `data`."""
  slices = len({_slice(device) for device in devices})
  if slices == 1 or devices[0].platform != 'tpu':
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  data, fsdp, context = shape
  if data % slices:
    raise ConfigError(
      f'config.mesh.data={data} is not divisible by the {slices} slices, so that parameters would '
      'be gathered between slices: make config.mesh.fsdp smaller'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, fsdp, context), (slices, 1, 1), devices, allow_split_physical_axes=True
  )


def _slice(device: jax.Device) -> int:
  return getattr(device, 'slice_index', 0)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, *, video: bool = False) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch; of videos also the frames."""
  return NamedSharding(mesh, PartitionSpec(ROWS, *(['context'] if video else [])))


def leaf_name(path: Any) -> str:
  """Returns a/b/c for the path of a leaf, as the table of `sharding_rules` has it."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def state_sharding(mesh: Mesh | AbstractMesh, abstract_state: Any) -> Any:
  """Returns the tree of shardings of a training state, or of its parameters alone.

  Args:
    mesh: over which the table of `sharding_rules` splits large arrays.
    abstract_state: tree of arrays or shapes.
  """

  def place(path: Any, leaf: Any) -> NamedSharding:
    axis = split_axis(leaf_name(path), leaf.shape, mesh.shape['fsdp'])
    names = [None] * axis + ['fsdp'] if axis is not None else []
    return NamedSharding(mesh, PartitionSpec(*names))

  return jax.tree_util.tree_map_with_path(place, abstract_state)


def placed(mesh: Mesh, abstract_state: Any) -> Any:
  """Returns the shapes of a state with their shardings, which say how to restore it."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract_state,
    state_sharding(mesh, abstract_state),
  )


def put_state(mesh: Mesh, state: Any) -> Any:
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


def put_batch(mesh: Mesh, rows: Any) -> Any:
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
