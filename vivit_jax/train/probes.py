# SPDX-License-Identifier: Apache-2.0
"""Trains many heads on one frozen encoder with a shared forward pass.

Each head has its own learning rate and weight decay. V-JEPA 2 is evaluated in this way, as the best
of 20 heads (github.com/facebookresearch/vjepa2, evals).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vivit_jax.config.schema import Config, Task
from vivit_jax.model.pooling import Head
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import ViViT, all_tokens, apply
from vivit_jax.train import losses
from vivit_jax.train.losses import targets as task_targets
from vivit_jax.train.optimizer import is_matrix

HEAD = ('pooler', 'head')  # the subtrees that are trained
# V-JEPA 2's grid (configs/eval): 20 heads.
RATES = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
DECAYS = (0.01, 0.1, 0.4, 0.8)


class Probes(NamedTuple):
  """The heads and their optimizer state; every leaf has a leading axis of heads."""

  step: Array
  params: Any
  moments: Any


def grid(
  rates: tuple[float, ...] = RATES, decays: tuple[float, ...] = DECAYS
) -> Float[Array, 'heads 2']:
  """Returns learning rate and weight decay of each head: all pairs, rates in the outer loop."""
  return jnp.array(list(itertools.product(rates, decays)), jnp.float32)


def split(params: Any) -> tuple[Any, Any]:
  """Splits parameters into those of the encoder and those of the head."""
  frozen = {name: tree for name, tree in params.items() if name not in HEAD}
  return frozen, {name: tree for name, tree in params.items() if name in HEAD}


def start(head: Any, heads: int) -> Probes:
  """Returns the initial state with `heads` copies of a head."""
  params = jax.tree.map(lambda leaf: jnp.stack([leaf] * heads), head)
  return Probes(jnp.zeros((), jnp.int32), params, jax.vmap(optax.scale_by_adam().init)(params))


def encoder_of(model: ViViT) -> ViViT:
  """Returns the model that computes the head's input: all tokens, or pooled tokens."""
  attends = model.config.pooling.startswith('attention')
  return all_tokens(model) if attends else model.clone(classes=0)


def probe_step(
  state: Probes,
  frozen: Any,
  batch: dict[str, Array],
  *,
  config: Config,
  model: ViViT,
  settings: Float[Array, 'heads 2'],
  schedule: optax.Schedule,
) -> tuple[Probes, dict[str, Float[Array, ' heads']]]:
  """Returns the heads after one AdamW update, and the metrics of each head.

  Args:
    state: heads before the update.
    frozen: parameters of the encoder.
    batch: batch as in `train.step.train_step`.
    config: task, clip and label smoothing.
    model: the model, including its head.
    settings: result of `grid`.
    schedule: factor for all rates by step.
  """
  task, head = config.task, Head(model.config, model.classes)
  labels = task_targets(task, batch['label'])
  video = normalize_pixels(batch['video'], config.clip.mean, config.clip.std)
  # The encoder is not differentiated, so there is no backward pass through it.
  x = apply(encoder_of(model), frozen, video).astype(model.config.dtype)
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)

  def objective(params: Any, key: Array) -> tuple[Array, Array]:
    rngs = {'dropout': key}
    logits = cast(Array, head.apply({'params': params}, x, train=True, rngs=rngs))
    return losses.loss(task, logits, labels, config.train.label_smoothing), logits

  def one(params: Any, moments: Any, setting: Array, key: Array) -> tuple[Any, Any, Any]:
    (loss, logits), gradients = jax.value_and_grad(objective, has_aux=True)(params, key)
    updates, moments = optax.scale_by_adam().update(gradients, moments)
    rate = setting[0] * schedule(state.step)
    params = jax.tree.map(
      lambda p, u, decays: p - rate * (u + setting[1] * p * decays),
      params,
      updates,
      is_matrix(params),
    )
    return params, moments, {'loss': loss, **losses.accuracy(task, logits, labels)}

  keys = jax.random.split(key, len(settings))
  params, moments, metrics = jax.vmap(one)(state.params, state.moments, settings, keys)
  return Probes(state.step + 1, params, moments), metrics


def forward(
  config: Config, model: ViViT
) -> Callable[[Any, Any, Array], Float[Array, 'heads b classes']]:
  """Returns a compiled function (heads' params, frozen, pixels) -> logits of each head."""
  head = Head(model.config, model.classes)

  @jax.jit
  def run(params: Any, frozen: Any, pixels: Array) -> Array:
    video = normalize_pixels(pixels, config.clip.mean, config.clip.std)
    x = apply(encoder_of(model), frozen, video).astype(model.config.dtype)
    logits = jax.vmap(lambda params: head.apply({'params': params}, x))(params)
    return cast(Array, logits)

  return run


def compiled(
  config: Config, model: ViViT, settings: Float[Array, 'heads 2'], steps: int
) -> Callable[..., tuple[Probes, dict[str, Array]]]:
  """Returns the compiled `probe_step`, with a cosine decay of the rates to zero over the steps."""
  step = functools.partial(
    probe_step,
    config=config,
    model=model,
    settings=settings,
    schedule=optax.cosine_decay_schedule(1.0, steps),
  )
  return jax.jit(step, donate_argnums=0)


def accuracy(
  logits: Float[Array, 'heads b classes'], labels: Array, task: Task
) -> dict[str, Float[Array, ' heads']]:
  """Returns the metrics of each head for a batch."""
  wanted = task_targets(task, labels)
  return jax.vmap(lambda x: losses.accuracy(task, x, wanted))(logits)
