# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule and optimiser, as one optax transformation."""

from typing import Any

import jax
import optax

from vivit_jax.config import Config, Train
from vivit_jax.config_types import LARGEST
from vivit_jax.errors import ConfigError
from vivit_jax.train.parameter_groups import depths, is_matrix, is_trained


def total_steps(config: Config, videos: int) -> int:
  """Returns the length of a run: train.steps, else epochs over `videos` training videos."""
  if config.train.steps is not None:
    return config.train.steps
  steps = max(1, round(config.train.epochs * videos / config.train.batch_size))
  if steps > LARGEST:
    raise ConfigError(
      f'config.train.epochs={config.train.epochs} of {videos} videos are {steps:.3g} steps: '
      f'at most {LARGEST} are counted'
    )
  return steps


def learning_rate(train: Train, steps: int) -> optax.Schedule:
  """Returns linear warm-up to the peak, then cosine decay (paper section 4.1: from 0 and to 0)."""
  share = train.warmup_epochs / train.epochs if train.epochs else 0.0
  warmup = min(round(share * steps), steps - 1)
  peak = train.learning_rate
  return optax.warmup_cosine_decay_schedule(
    train.warmup_start * peak, peak, warmup, steps, train.final_rate * peak
  )


def make_optimizer(train: Train, steps: int) -> optax.GradientTransformation:
  """Returns clipping by global norm, then SGD with momentum or AdamW, then layer-wise decay.

  Weight decay acts on matrices alone: not on biases, norms, positions or cls tokens. Frozen
  parameters have no optimiser state.
  """
  schedule = learning_rate(train, steps)
  # With groups the step has clipped already.
  clips = train.clip_norm and not train.clip_groups
  clip = optax.clip_by_global_norm(train.clip_norm) if clips else optax.identity()
  if train.optimizer == 'adamw':
    update = optax.adamw(schedule, weight_decay=train.weight_decay, mask=is_matrix)
  else:
    update = optax.sgd(schedule, momentum=train.momentum)
    if train.weight_decay:
      update = optax.chain(optax.add_decayed_weights(train.weight_decay, is_matrix), update)
  update = optax.chain(clip, update)
  if train.frozen:
    update = optax.masked(update, lambda params: is_trained(params, train.frozen))
  return update if train.layer_decay == 1.0 else optax.chain(update, scale_by_depth(train))


def scale_by_depth(train: Train) -> optax.GradientTransformation:
  """Returns updates times layer_decay^(d - depth), d the depth of the head (arXiv 2106.08254)."""

  def scale(updates: Any, params: Any) -> Any:
    depth, last = depths(params)
    return jax.tree.map(lambda u, d: u * train.layer_decay ** (last - d), updates, depth)

  return optax.stateless(scale)
