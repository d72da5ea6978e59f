# SPDX-License-Identifier: Apache-2.0
"""What a training step needs on each device, estimated from shapes alone, for any accelerator."""

import dataclasses
import functools
from typing import Any, Literal, cast

import jax
import numpy as np
from jax.extend.core import Var
from jax.sharding import AbstractMesh

from vivit_jax.config import Clip, Config
from vivit_jax.config_mesh import AXES, check_devices
from vivit_jax.model.vivit import ViViT, abstract_params, apply, build, video_shape
from vivit_jax.placement import bytes_per_device
from vivit_jax.plan.abstract import abstract_batch, abstract_training
from vivit_jax.train.state import TrainState

# What XLA keeps of what JAX saves, where layers are no scan: the rest it works out again. Shares
# found by compiling for TPUs and an H100: docs/scale.md.
KEPT = {'tpu': 0.2, 'gpu': 0.5}


def estimate(config: Config, devices: int, kind: Literal['tpu', 'gpu']) -> dict[str, int]:
  """Returns bytes per device by what they are for; compiles and allocates nothing.

  What a forward pass leaves for the backward pass is read off the program of `jax.vjp`, so that
  remat, precision and the kind of attention count as they are.

  Raises:
    ConfigError: where the mesh does not fit the devices or the batch.
  """
  data, fsdp, context = shape = check_devices(config, devices)
  model, state = build(config), _state(_as_stored(config))
  mesh = AbstractMesh(shape, AXES)
  params = bytes_per_device(mesh, state.params)
  batch = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_batch(config)))
  share = 1 / (data * fsdp * context)  # of a global batch
  clips = config.train.batch_size * share / config.train.accumulate
  per_clip, copies = saved(model, config.clip)
  unrolled = not config.model.scan and config.model.remat == 'none'
  sizes = {
    'parameters': params,
    'optimiser state and averages': bytes_per_device(mesh, (state.opt_state, state.average)),
    'gradients': params * (1 if config.train.accumulate == 1 else 2),
    'copies of the parameters': copies / fsdp,
    'saved for the backward pass': clips * per_clip * (KEPT[kind] if unrolled else 1),
    'one block at work': clips * _one_block(model, config.clip),
    'clips': batch * share * 5,  # as bytes, and as float32
  }
  return {name: round(size) for name, size in sizes.items()}


def _as_stored(config: Config) -> Config:
  """Returns the experiment without what does not change its state."""
  model = dataclasses.replace(config.model, dtype='float32', scan=False, remat='none')
  train = dataclasses.replace(config.train, accumulate=1)
  return Config(task=config.task, model=model, clip=config.clip, train=train)


@functools.cache  # many trials have the same
def _state(config: Config) -> TrainState:
  return abstract_training(config)[2]


@functools.cache
def saved(model: ViViT, clip: Clip) -> tuple[int, int]:
  """Returns bytes that a forward pass leaves for the backward pass: per clip, and for any number.

  The latter are copies of the parameters, stacked for a scan or in half precision.
  """
  spatial, temporal = model.config.layers, model.config.temporal_layers
  least = min(1, temporal)

  def both(layers: int, temporal_layers: int) -> np.ndarray:
    few = dataclasses.replace(model.config, layers=layers, temporal_layers=temporal_layers)
    one, two = (_residuals(model.clone(config=few), clip, batch) for batch in (1, 2))
    return np.array([two - one, 2 * one - two])

  # Layers of a stage are all alike, and take time to trace.
  result = base = both(1, least)
  result = result + (spatial - 1) * (both(2, least) - base)
  if temporal > 1 and model.config.attention == 'factorised_encoder':
    result = result + (temporal - 1) * (both(1, 2) - base)
  return int(result[0]), int(result[1])


@functools.cache
def _residuals(model: ViViT, clip: Clip, batch: int) -> int:
  params, video = abstract_params(model, clip), video_shape(clip, batch)
  forward = functools.partial(apply, model, dropout_key=jax.random.key(0))

  def backward(params: Any, video: jax.Array) -> Any:
    return jax.vjp(lambda params: forward(params, video=video), params)

  program = jax.make_jaxpr(backward)(params, video).jaxpr
  kept = {var for var in program.outvars if isinstance(var, Var)} - set(program.invars)
  shapes = [cast(jax.core.ShapedArray, var.aval) for var in kept]
  return sum(shape.size * shape.dtype.itemsize for shape in shapes)


def _one_block(model: ViViT, clip: Clip) -> int:
  """Returns bytes per clip that a block of the first stage needs while it is differentiated."""
  few = [
    dataclasses.replace(model.config, layers=layers, scan=True, remat='none') for layers in (1, 2)
  ]
  one, two = (saved(model.clone(config=config), clip)[0] for config in few)
  return two - one
