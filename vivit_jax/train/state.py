# SPDX-License-Identifier: Apache-2.0
"""The training state: everything that a step updates and a checkpoint stores."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vivit_jax.config.schema import Config
from vivit_jax.model.vivit import ViViT, abstract_params, init_params


@struct.dataclass
class TrainState:
  """Step, parameters and optimizer state; random numbers are derived from seed and step."""

  step: Any  # int32 scalar; in abstract states, a shape, sharding or type
  params: Any
  opt_state: Any
  ema_params: Any = ()  # exponential moving average of the parameters if train.ema_decay > 0

  @property
  def eval_params(self) -> Any:
    """The parameters to evaluate and to export: the moving average if there is one."""
    return self.ema_params or self.params


def init_state(config: Config, model: ViViT, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the initial state in host memory; it depends only on config and seed."""
  with on_host():
    params = init_params(model, config.clip, jax.random.key(config.seed))
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  return start_from(config, state, params)


def start_from(config: Config, state: TrainState, params: Any) -> TrainState:
  """Returns an initial state with these parameters, also as the initial moving average."""
  # A copy, because the step donates all buffers of the state, and each can be donated only once.
  with on_host():
    ema_params = jax.tree.map(jnp.array, params) if config.train.ema_decay else ()
  return dataclasses.replace(state, params=params, ema_params=ema_params)


def on_host() -> contextlib.AbstractContextManager:
  """Runs computations on the CPU, since an unsharded state may not fit on one accelerator."""
  try:
    return jax.default_device(jax.local_devices(backend='cpu')[0])
  except RuntimeError:  # JAX_PLATFORMS excludes the CPU
    return contextlib.nullcontext()


def abstract_state(
  config: Config, model: ViViT, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the shapes and types of the state without allocating memory."""
  params = abstract_params(model, config.clip)
  step = jax.eval_shape(lambda: jnp.zeros((), jnp.int32))
  opt_state = jax.eval_shape(optimizer.init, params)
  return TrainState(step, params, opt_state, params if config.train.ema_decay else ())
