# SPDX-License-Identifier: Apache-2.0
"""Devices as a mesh, and which rows of a batch live where."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vivit_jax.config import Config
from vivit_jax.config_parse import check_devices
from vivit_jax.errors import ConfigError


def make_mesh(config: Config | None, devices: list[jax.Device] | None = None) -> Mesh:
  """Returns a mesh over `devices` (all of them by default), on which a given experiment must fit.

  Raises:
    ConfigError: where the mesh does not fit the devices or a batch does not divide.
  """
  try:
    devices = devices or jax.devices()
  except RuntimeError as error:  # JAX_PLATFORMS asks for what is not there
    raise ConfigError(f'JAX finds no device: {" ".join(str(error).split())}') from None
  if config is not None:
    check_devices(config, len(devices))
  return Mesh(np.array(devices), ('data',))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec('data'))


def host_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
  """Returns the rows [low, high) of a global batch that this process's devices own."""
  slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  bounds = [rows[0].indices(batch_size)[:2] for rows in slices if rows is not None]
  return min(low for low, _ in bounds), max(high for _, high in bounds)


def put_batch(mesh: Mesh, rows: Any) -> Any:
  """Returns this process's rows of a batch (a tree of NumPy arrays) as global device arrays."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)


def local_rows(array: jax.Array) -> np.ndarray:
  """Returns this process's rows of a batch-sharded array."""
  shards = {shard.index[0].start or 0: shard for shard in array.addressable_shards}
  return np.concatenate([np.asarray(shards[start].data) for start in sorted(shards)])
