# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule and optimizer as one optax transformation.

This includes weight decay masks, frozen parameters and layer-wise learning rates.
"""

from typing import Any

import jax
import optax

from vivit_jax.config.augment import LARGEST
from vivit_jax.config.schema import Config, Train
from vivit_jax.errors import ConfigError, nearest


def total_steps(config: Config, videos: int) -> int:
  """Returns the number of steps of a run: train.steps, or else epochs over `videos` videos."""
  if config.train.steps is not None:
    return config.train.steps
  steps = max(1, round(config.train.epochs * videos / config.train.batch_size))
  if steps > LARGEST:
    raise ConfigError(
      f'config.train.epochs={config.train.epochs} of {videos} videos are {steps:.3g} steps: '
      f'at most {LARGEST} are possible'
    )
  return steps


def learning_rate(train: Train, steps: int) -> optax.Schedule:
  """Returns a linear warm-up to the peak, then a cosine decay (paper section 4.1: from 0, to 0)."""
  share = train.warmup_epochs / train.epochs if train.epochs else 0.0
  warmup = min(round(share * steps), steps - 1)
  peak = train.learning_rate
  return optax.warmup_cosine_decay_schedule(
    train.warmup_start * peak, peak, warmup, steps, train.final_rate * peak
  )


def make_optimizer(train: Train, steps: int) -> optax.GradientTransformation:
  """Returns clipping by global norm, SGD with momentum or AdamW, and layer-wise rates, in order.

  Weight decay applies only to matrices, not to biases, norms, positions or cls tokens. Frozen
  parameters have no optimizer state.
  """
  schedule = learning_rate(train, steps)
  # With groups, gradients are already clipped in the step.
  clips = train.grad_clip_norm and not train.grad_clip_groups
  clip = optax.clip_by_global_norm(train.grad_clip_norm) if clips else optax.identity()
  if train.optimizer == 'adamw':
    update = optax.adamw(
      schedule, b2=train.second_moment_decay, weight_decay=train.weight_decay, mask=is_matrix
    )
  else:
    update = optax.sgd(schedule, momentum=train.momentum)
    if train.weight_decay:
      update = optax.chain(optax.add_decayed_weights(train.weight_decay, is_matrix), update)
  update = optax.chain(clip, update)
  if train.freeze:
    update = optax.masked(update, lambda params: is_trained(params, train.freeze))
  return update if train.layer_decay == 1.0 else optax.chain(update, scale_by_depth(train))


def scale_by_depth(train: Train) -> optax.GradientTransformation:
  """Scales updates by layer_decay^(d - depth), with d the depth of the head (arXiv 2106.08254)."""

  def scale(updates: Any, params: Any) -> Any:
    depth, last = depths(params)
    return jax.tree.map(lambda u, d: u * train.layer_decay ** (last - d), updates, depth)

  return optax.stateless(scale)


STAGES = ('spacetime', 'spatial', 'temporal')  # in execution order


def is_matrix(params: Any) -> Any:
  """Returns a tree that is True at kernels of linear layers and of the tokenizer."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def is_trained(params: Any, frozen: tuple[str, ...]) -> Any:
  """Returns a tree that is False at parameters whose path starts with one of `frozen`.

  Raises:
    ConfigError: an entry matches no parameter, or all parameters are frozen.
  """
  paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for start in frozen:
    if not any(_below(path, start) for path in paths):
      parts = [path.split('/') for path in paths]
      choices = sorted({'/'.join(p[:k]) for p in parts for k in (1, 2) if k < len(p)})
      raise ConfigError(
        f'config.train.freeze: no parameter path starts with {start!r}{nearest(start, choices)}'
      )
  if all(any(_below(path, start) for start in frozen) for path in paths):
    raise ConfigError(f'config.train.freeze={frozen} leaves no parameters to train')
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not any(_below(_name(path), start) for start in frozen), params
  )


def depths(params: Any) -> tuple[Any, int]:
  """Returns the depth of each parameter, and the depth of the head.

  As in BEiT (arXiv 2106.08254): 0 for the tokenizer and for positions and cls of the first stage, i
  for its i-th block; the final norm has the depth of the head. The count continues in the temporal
  stage, whose positions and cls have the depth of the last spatial block.
  """
  blocks = {name: sum(key.startswith('block_') for key in params.get(name, ())) for name in STAGES}
  starts = {name: sum(blocks[s] for s in STAGES[:i]) for i, name in enumerate(STAGES)}
  last = sum(blocks.values()) + 1
  final = max((name for name in STAGES if blocks[name]), key=STAGES.index)

  def depth(path: Any, _: Any) -> int:
    part, *rest = _name(path).split('/')
    if part in ('head', 'pooler', 'decoder') or (part == final and rest[0] == 'norm'):
      return last
    if part not in STAGES:
      return 0
    if rest[0] == 'norm':
      return starts[part] + blocks[part]
    kind, _, number = rest[0].partition('_')
    return starts[part] + (int(number) + 1 if kind == 'block' else 0)

  return jax.tree_util.tree_map_with_path(depth, params), last


def _below(path: str, start: str) -> bool:
  return f'{path}/'.startswith(f'{start.rstrip("/")}/')


def _name(path: Any) -> str:
  return '/'.join(key.key for key in path)
