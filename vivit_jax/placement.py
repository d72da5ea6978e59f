# SPDX-License-Identifier: Apache-2.0
"""What each device of a mesh would hold of a training state, from shapes alone."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from vivit_jax.config import Config
from vivit_jax.config_mesh import AXES, check_devices
from vivit_jax.errors import ConfigError
from vivit_jax.sharding import leaf_name, state_sharding
from vivit_jax.sharding_rules import RULES, rule_of
from vivit_jax.train.state import TrainState

OTHERS = 'all others'


def placement(config: Config, state: TrainState, devices: int | None = None) -> dict[str, Any]:
  """Returns where a state lies on the mesh of its experiment, as plain values.

  Args:
    config: its mesh, and the batches that have to fit on it.
    state: shapes and types.
    devices: how many there are; by default as many as the mesh names, -1 being 1.

  Raises:
    ConfigError: where the experiment does not fit on so many devices.
  """
  if devices is None:
    devices = math.prod(max(size, 1) for size in dataclasses.astuple(config.mesh))
  if devices < 1:
    raise ConfigError(f'--devices={devices} must be at least 1')
  mesh = AbstractMesh(check_devices(config, devices), AXES)
  return {
    'devices': devices,
    'mesh': dict(mesh.shape),
    'parameters': _rows(mesh, state.params),
    'bytes_per_device': {
      'parameters': bytes_per_device(mesh, state.params),
      'optimizer_state': bytes_per_device(mesh, state.opt_state),
      'average': bytes_per_device(mesh, state.average),
    },
  }


def bytes_per_device(mesh: Mesh | AbstractMesh, tree: Any) -> int:
  """Returns what one device holds of a state, or of a part of it."""
  sizes = jax.tree.map(
    lambda leaf, place: math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
    tree,
    state_sharding(mesh, tree),
  )
  return sum(jax.tree.leaves(sizes))


def _rows(mesh: AbstractMesh, params: Any) -> list[dict[str, Any]]:
  """Returns a row for each rule of the table that the model has parameters for."""
  rows: dict[str, dict[str, Any]] = {}
  places = jax.tree.leaves(state_sharding(mesh, params))
  for (path, leaf), place in zip(jax.tree.leaves_with_path(params), places, strict=True):
    rule = rule_of(leaf_name(path)) or OTHERS
    row = rows.setdefault(
      rule, {'rule': rule, 'split_axis': None, 'arrays': 0, 'numbers': 0, 'on_a_device': 0}
    )
    own = math.prod(place.shard_shape(leaf.shape))
    if own < leaf.size:
      row['split_axis'] = RULES[rule]
    row['arrays'] += 1
    row['numbers'] += leaf.size
    row['on_a_device'] += own
  return [rows[rule] for rule in (*RULES, OTHERS) if rule in rows]


def as_lines(placement: dict[str, Any]) -> list[str]:
  """Returns the same for reading."""
  mesh, sizes = placement['mesh'], placement['bytes_per_device']
  axes = ' x '.join(f'{name}={size}' for name, size in mesh.items())
  lines = [
    f'mesh: {axes} = {placement["devices"]} devices',
    f'{"parameters":28}{"split axis":>12}{"arrays":>8}{"numbers":>16}{"on a device":>16}',
  ]
  for row in placement['parameters']:
    axis = 'whole' if row['split_axis'] is None else row['split_axis']
    lines.append(
      f'{row["rule"]:28}{axis:>12}{row["arrays"]:8}{row["numbers"]:16,}{row["on_a_device"]:16,}'
    )
  each = ', '.join(
    f'{name.replace("_", " ")} {size / 2**20:,.1f} MiB' for name, size in sizes.items()
  )
  return [*lines, f'each device holds {each}']
