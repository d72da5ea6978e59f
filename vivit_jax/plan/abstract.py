# SPDX-License-Identifier: Apache-2.0
"""The training step of a configuration as shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vivit_jax.config import Config
from vivit_jax.model.vivit import ViViT, build
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import TrainState, abstract_state
from vivit_jax.train.step import compile_step

STEPS = 1000  # of a run that is given in epochs; they change numbers, not shapes


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of one training batch, as `train.step.train_step` takes it."""
  clip, task, size = config.clip, config.task, config.train.batch_size
  many = task.kind == 'multi_label'
  return {
    'video': jax.ShapeDtypeStruct((size, clip.frames, clip.height, clip.width, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct(
      (size, sum(task.classes) if many else len(task.heads)), jnp.float32 if many else jnp.int32
    ),
  }


def abstract_training(config: Config) -> tuple[ViViT, optax.GradientTransformation, TrainState]:
  """Returns the model, its optimiser and the shapes of their state; allocates nothing."""
  model = build(config)
  optimizer = make_optimizer(config.train, config.train.steps or STEPS)
  return model, optimizer, abstract_state(config, model, optimizer)


def lower_step(config: Config, mesh: Mesh) -> Any:
  """Returns the training step lowered for the devices of a mesh, not yet compiled."""
  model, optimizer, state = abstract_training(config)
  step: Any = compile_step(config, model, optimizer, mesh)
  return step.lower(state, abstract_batch(config))
