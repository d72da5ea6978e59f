# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule and optimiser, as one optax transformation."""

from typing import Any

import jax
import optax

from vivit_jax.config import Config, Train


def total_steps(config: Config, videos: int) -> int:
  """Returns the length of a run: train.steps, else epochs over `videos` training videos."""
  if config.train.steps is not None:
    return config.train.steps
  return max(1, round(config.train.epochs * videos / config.train.batch_size))


def learning_rate(train: Train, steps: int) -> optax.Schedule:
  """Returns linear warm-up to the peak, then cosine decay to 0 (paper section 4.1)."""
  share = train.warmup_epochs / train.epochs if train.epochs else 0.0
  warmup = min(round(share * steps), steps - 1)
  return optax.warmup_cosine_decay_schedule(0.0, train.learning_rate, warmup, steps)


def make_optimizer(train: Train, steps: int) -> optax.GradientTransformation:
  """Returns clipping by global norm, then SGD with momentum or AdamW.

  Weight decay acts on matrices alone: not on biases, norms, positions or cls tokens.
  """
  schedule = learning_rate(train, steps)
  clip = optax.clip_by_global_norm(train.clip_norm) if train.clip_norm else optax.identity()
  if train.optimizer == 'adamw':
    update = optax.adamw(schedule, weight_decay=train.weight_decay, mask=is_matrix)
  else:
    update = optax.sgd(schedule, momentum=train.momentum)
    if train.weight_decay:
      update = optax.chain(optax.add_decayed_weights(train.weight_decay, is_matrix), update)
  return optax.chain(clip, update)


def is_matrix(params: Any) -> Any:
  """Returns a tree that is True at the kernels of linear layers and of the tokenizer."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
