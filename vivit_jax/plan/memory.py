# SPDX-License-Identifier: Apache-2.0
"""Estimates the memory of a training step per device from shapes alone, for any accelerator."""

import dataclasses
import functools
import math
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Var
from jax.sharding import AbstractMesh, Mesh

from vivit_jax.config.pretraining import places_of
from vivit_jax.config.schema import Clip, Config
from vivit_jax.config.sharding_rules import RULES, rule_of
from vivit_jax.distributed.mesh import AXES, check_devices
from vivit_jax.distributed.sharding import leaf_name, state_sharding
from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import ViViT, abstract_params, apply, build, video_shape
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import TrainState, abstract_state
from vivit_jax.train.step import compile_step, host_cut

OTHERS = 'all others'


def placement(config: Config, state: TrainState, devices: int | None = None) -> dict[str, Any]:
  """Returns how a state is sharded over the mesh of its config, as JSON values.

  Args:
    config: config with the mesh, and the batch sizes, which are checked against it.
    state: abstract state.
    devices: number of devices; by default the product of the mesh axes, with -1 counted as 1.

  Raises:
    ConfigError: the config does not fit on this number of devices.
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
      'average': bytes_per_device(mesh, state.ema_params),
    },
  }


def bytes_per_device(mesh: Mesh | AbstractMesh, tree: Any) -> int:
  """Returns the bytes of a tree on one device."""
  sizes = jax.tree.map(
    lambda leaf, place: math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
    tree,
    state_sharding(mesh, tree),
  )
  return sum(jax.tree.leaves(sizes))


def _rows(mesh: AbstractMesh, params: Any) -> list[dict[str, Any]]:
  """Returns a row for each sharding rule that matches parameters of the model."""
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
  """Returns the placement as text, line by line."""
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


# Fraction of JAX's residuals for the backward pass that XLA stores if layers are not scanned; it
# recomputes the rest. Measured by compiling for TPUs and an H100: docs/scale.md.
KEPT = {'tpu': 0.2, 'gpu': 0.5}


def estimate(config: Config, devices: int, kind: Literal['tpu', 'gpu']) -> dict[str, int]:
  """Returns bytes per device by purpose; compiles and allocates nothing.

  The residuals for the backward pass are taken from the jaxpr of `jax.vjp`, so that remat,
  precision and attention type are accounted for.

  Raises:
    ConfigError: the mesh does not fit the devices or the batch.
  """
  data, fsdp, context = shape = check_devices(config, devices)
  model, state = build(config), _state(_as_stored(config))
  mesh = AbstractMesh(shape, AXES)
  params = bytes_per_device(mesh, state.params)
  batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_batch(config)))
  share = 1 / (data * fsdp * context)  # of a global batch
  clips = config.train.batch_size * share / config.train.grad_accum_steps
  per_clip, copies = saved(model, config.clip)
  unrolled = not config.model.scan and config.model.remat in ('auto', 'none', 'elementwise')
  sizes = {
    'parameters': params,
    'optimizer state and averages': bytes_per_device(mesh, (state.opt_state, state.ema_params)),
    'gradients': params * (1 if config.train.grad_accum_steps == 1 else 2),
    'copies of the parameters': copies / fsdp,
    'saved for the backward pass': clips * per_clip * (KEPT[kind] if unrolled else 1),
    'one block at work': clips * _one_block(model, config.clip),
    'clips': batch * share * 5,  # as uint8 and as float32
  }
  return {name: round(size) for name, size in sizes.items()}


def _as_stored(config: Config) -> Config:
  """Returns the config with settings removed that do not affect the state."""
  model = dataclasses.replace(config.model, dtype='float32', scan=False, remat='none')
  train = dataclasses.replace(config.train, grad_accum_steps=1)
  return Config(task=config.task, model=model, clip=config.clip, train=train)


@functools.cache  # many trials share it
def _state(config: Config) -> TrainState:
  return abstract_training(config)[2]


@functools.cache
def saved(model: ViViT, clip: Clip) -> tuple[int, int]:
  """Returns bytes of residuals for the backward pass: per clip, and independent of clips.

  The latter are copies of the parameters, stacked for a scan or in half precision.
  """
  spatial, temporal = model.config.layers, model.config.temporal_layers
  least = min(1, temporal)

  def both(layers: int, temporal_layers: int) -> np.ndarray:
    few = dataclasses.replace(model.config, layers=layers, temporal_layers=temporal_layers)
    one, two = (_residuals(model.clone(config=few), clip, batch) for batch in (1, 2))
    return np.array([two - one, 2 * one - two])

  # All layers of a stage are equal, and tracing them takes time.
  result = base = both(1, least)
  result = result + (spatial - 1) * (both(2, least) - base)
  if temporal > 1 and model.config.attention.startswith('factorised_encoder'):
    result = result + (temporal - 1) * (both(1, 2) - base)
  return int(result[0]), int(result[1])


@functools.cache
def _residuals(model: ViViT, clip: Clip, batch: int) -> int:
  params, video = abstract_params(model, clip), video_shape(clip, batch)
  places = None
  if model.masked is not None:  # the encoder computes on visible patches alone
    places = jax.ShapeDtypeStruct((batch, math.prod(places_of(model.config, clip))), jnp.int32)

  def backward(params: Any, video: jax.Array, places: jax.Array | None) -> Any:
    key = jax.random.key(0)
    return jax.vjp(lambda params: apply(model, params, video, key, places), params)

  program = jax.make_jaxpr(backward)(params, video, places).jaxpr
  kept = {var for var in program.outvars if isinstance(var, Var)} - set(program.invars)
  shapes = [cast(jax.core.ShapedArray, var.aval) for var in kept]
  return sum(shape.size * shape.dtype.itemsize for shape in shapes)


def _one_block(model: ViViT, clip: Clip) -> int:
  """Returns bytes per clip that a block of the first stage needs during its backward pass."""
  few = [
    dataclasses.replace(model.config, layers=layers, scan=True, remat='none') for layers in (1, 2)
  ]
  one, two = (saved(model.clone(config=config), clip)[0] for config in few)
  return two - one


STEPS = 1000  # assumed for a run given in epochs; does not affect shapes


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the abstract training batch of `train.step.train_step`."""
  clip, task, size = config.clip, config.task, config.train.batch_size
  many = task.kind == 'multi_label'
  return {
    'video': jax.ShapeDtypeStruct((size, clip.frames, clip.height, clip.width, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct(
      (size, sum(task.classes) if many else len(task.heads)), jnp.float32 if many else jnp.int32
    ),
  }


def abstract_training(
  config: Config, head: bool = True
) -> tuple[ViViT, optax.GradientTransformation, TrainState]:
  """Returns the model, the optimizer and the abstract training state; allocates nothing."""
  model = build(config) if head else ViViT(config.model, 0)
  optimizer = make_optimizer(config.train, config.train.steps or STEPS)
  return model, optimizer, abstract_state(config, model, optimizer)


def lower_step(config: Config, mesh: Mesh) -> Any:
  """Returns the training step lowered for the devices of a mesh, not yet compiled."""
  model, optimizer, state = abstract_training(config)
  step: Any = compile_step(config, model, optimizer, mesh)
  batch, cut = abstract_batch(config), host_cut(config, mesh.devices.flat[0].device_kind)
  if cut is not None:
    batch['video'] = jax.eval_shape(cut, batch['video'])
  return step.lower(state, batch)
