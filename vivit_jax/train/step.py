# SPDX-License-Identifier: Apache-2.0
"""One training step as a pure function of state and batch, and the forward pass for evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vivit_jax.config.schema import Clip, Config
from vivit_jax.distributed.sharding import (
  batch_sharding,
  local_rows,
  replicated,
  shard_batch,
  state_sharding,
)
from vivit_jax.model.choices import noting
from vivit_jax.model.kernels import check_kernel
from vivit_jax.model.partitioning import compiled_for
from vivit_jax.model.tokenizer import cut, cut_by_host
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import ViViT, apply
from vivit_jax.train import losses
from vivit_jax.train.gradients import Gradient, accumulated, clipped_by_group
from vivit_jax.train.losses import targets as task_targets
from vivit_jax.train.mix import mix
from vivit_jax.train.optimizer import is_trained
from vivit_jax.train.state import TrainState, abstract_state

Metrics = dict[str, Array]
Step = Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]
CLIP = Clip()


def train_step(
  state: TrainState,
  batch: dict[str, Array],
  *,
  config: Config,
  model: ViViT,
  optimizer: optax.GradientTransformation,
  class_weights: np.ndarray | None = None,
) -> tuple[TrainState, Metrics]:
  """Returns the state after one update, and the step's metrics as scalars.

  If the loss or any gradient is non-finite, the update is skipped and `skipped_updates` is 1.

  Args:
    state: before the update.
    batch: `video` uint8 [B, F, H, W, 3], or cut (see `host_cut`); `label` int32 [B, heads], or
      multi-hot [B, C].
    config: task, regularisers and seed.
    model: its dropout depends on seed and step only.
    optimizer: as in `optimizer.make_optimizer`.
    class_weights: of the loss, see `losses.loss`.
  """
  task, train, clip = config.task, config.train, config.clip
  weights = None if class_weights is None else jnp.asarray(class_weights)
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  labels = task_targets(task, batch['label'])
  video, targets = mix(config.mix, jax.random.fold_in(key, 1), batch['video'], labels)

  def objective(params: Any, video: Array, targets: Array, key: Array) -> tuple[Array, Array]:
    if train.freeze:  # spares the backward pass below them
      trained = is_trained(params, train.freeze)
      params = jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trained)
    logits = apply(model, params, _values(video, clip), key)
    return losses.loss(task, logits, targets, train.label_smoothing, weights), logits

  gradient = _split_as_params(jax.value_and_grad(objective, has_aux=True))
  if train.grad_clip_groups:
    gradient = clipped_by_group(objective, train.grad_clip_groups, train.grad_clip_norm)
  elif train.grad_accum_steps > 1:
    gradient = accumulated(gradient, train.grad_accum_steps)
  (loss, logits), gradients = gradient(state.params, video, targets, key)
  norm = optax.tree.norm(gradients)

  def updated(state: TrainState) -> TrainState:
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if train.ema_decay:
      ema_params = optax.incremental_update(params, ema_params, 1.0 - train.ema_decay)
    return TrainState(state.step, params, opt_state, ema_params)

  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  if compiled_for() == 'cpu':
    # In place. Leaf by leaf, XLA would copy the optimizer's state for the parameters' update here.
    state = jax.lax.cond(finite, updated, lambda state: state, state)
  else:
    # Leaf by leaf, in place of the donated one. A branch would copy the state once more on GPUs,
    # and hold the host until the device comes to it.
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated(state), state)
  metrics = {
    'loss': loss,
    'gradient_norm': norm,
    'skipped_updates': 1.0 - finite,
    **losses.accuracy(task, logits, targets),
  }
  # The step counts on whatever its numbers were, so that data and random numbers go on.
  return dataclasses.replace(state, step=state.step + 1), metrics


def _values(video: Array, clip: Clip) -> Array:
  """Returns the values of pixels of a video, or of its patches."""
  pixels = video if video.ndim == 5 else video.reshape(*video.shape[:3], -1, 3)
  return normalize_pixels(pixels, clip.mean, clip.std).reshape(video.shape)


def host_cut(config: Config, device: str) -> Callable[[Any], Any] | None:
  """Returns how the host cuts videos for a step on this kind of device; None: they stay whole."""
  whole = config.mix.mixup or config.mix.cutmix  # which blend pictures
  if whole or not cut_by_host(config.model, device):
    return None
  return functools.partial(cut, patch=config.model.patch)


def _split_as_params(gradient: Gradient) -> Gradient:
  """Returns the same whose gradients lie as the parameters, before a norm asks for all of them."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.shape.get('fsdp', 1) == 1:
    return gradient

  def split(params: Any, video: Array, targets: Array, key: Array) -> Any:
    aux, gradients = gradient(params, video, targets, key)
    places = state_sharding(mesh, gradients)
    return aux, jax.lax.with_sharding_constraint(gradients, places)

  return split


def compile_step(
  config: Config,
  model: ViViT,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  class_weights: np.ndarray | None = None,
  say: Callable[[str], None] = lambda line: None,
) -> Step:
  """Returns `train_step` jitted over the mesh: batch and state split, the state donated.

  As it is traced, `say` is given a line for each kernel that `auto` chose, and why.
  """
  check_kernel(config.model, mesh.devices.flat[0].device_kind)

  def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), noting() as chosen:
      result = train_step(
        state,
        batch,
        config=config,
        model=model,
        optimizer=optimizer,
        class_weights=class_weights,
      )
    for line in chosen:
      say(line)
    return result

  state = state_sharding(mesh, abstract_state(config, model, optimizer))
  batch = {'video': batch_sharding(mesh, video=True), 'label': batch_sharding(mesh)}
  return jax.jit(
    step,
    in_shardings=(state, batch),
    out_shardings=(state, replicated(mesh)),
    donate_argnums=0,
  )


@functools.cache  # validation and the test that follows share a compilation
def compile_forward(
  model: ViViT, mesh: Mesh, clip: Clip = CLIP
) -> Callable[[Any, np.ndarray], np.ndarray]:
  """Returns a function (params, uint8 rows of this process) -> float32 logits of those rows."""
  check_kernel(model.config, mesh.devices.flat[0].device_kind)

  @functools.partial(
    jax.jit,
    in_shardings=(None, batch_sharding(mesh, video=True)),  # parameters stay where they are
    out_shardings=batch_sharding(mesh),
  )
  def forward(params: Any, video: Array) -> Array:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return apply(model, params, normalize_pixels(video, clip.mean, clip.std))

  return lambda params, video: local_rows(forward(params, shard_batch(mesh, video)))
