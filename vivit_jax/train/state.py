# SPDX-License-Identifier: Apache-2.0
"""What training carries from step to step, and all that a checkpoint has to hold."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vivit_jax.config import Config
from vivit_jax.model.vivit import ViViT, abstract_params, init_params


@struct.dataclass
class TrainState:
  """Step, parameters and optimiser state; random numbers follow from the seed and the step."""

  step: Any  # int32 scalar; a shape, a sharding or a type where the tree describes a state
  params: Any
  opt_state: Any


def init_state(config: Config, model: ViViT, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first step; the same for the same seed."""
  params = init_params(model, config.clip, jax.random.key(config.seed))
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract_state(
  config: Config, model: ViViT, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns shapes and types of the state; allocates nothing."""
  params = abstract_params(model, config.clip)
  step = jax.eval_shape(lambda: jnp.zeros((), jnp.int32))
  return TrainState(step, params, jax.eval_shape(optimizer.init, params))
