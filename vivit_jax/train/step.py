# SPDX-License-Identifier: Apache-2.0
"""One training step as a pure function of state and batch, and the forward pass for evaluation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
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
from vivit_jax.model.values import normalize_pixels, values_of
from vivit_jax.model.vivit import ViViT, abstract_params, apply, video_shape
from vivit_jax.train import losses
from vivit_jax.train.gradients import Gradient, Objective, accumulated, clipped_by_group
from vivit_jax.train.losses import targets as task_targets
from vivit_jax.train.masked import places_of_step, reconstruction_loss
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
    state: state before the update.
    batch: `video` uint8 [B, F, H, W, 3], or tubelets (see `host_cut`); `label` int32 [B, heads], or
      multi-hot [B, C].
    config: task, regularization and seed.
    model: the model; its dropout depends only on seed and step.
    optimizer: result of `optimizer.make_optimizer`.
    class_weights: see `losses.loss`.
  """
  task, train = config.task, config.train
  key = jax.random.fold_in(jax.random.key(config.seed), state.step)
  video, targets = _inputs(config, batch, key)
  objective = _objective(config, model, class_weights)
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
    # In place. Leaf by leaf, XLA copies the optimizer's state for the update of the parameters.
    state = jax.lax.cond(finite, updated, lambda state: state, state)
  else:
    # Per leaf, in place of the donated buffer. A lax.cond would copy the state on GPUs, and block
    # the host until the device reaches it.
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated(state), state)
  metrics = {
    'loss': loss,
    'gradient_norm': norm,
    'skipped_updates': 1.0 - finite,
    **({} if task.kind == 'masked' else losses.accuracy(task, logits, targets)),
  }
  # The step advances even if the update is skipped, so that data and random numbers advance.
  return dataclasses.replace(state, step=state.step + 1), metrics


def _inputs(config: Config, batch: dict[str, Array], key: Array) -> tuple[Array, Array]:
  """Returns the clips of a step and what a row of each is trained towards.

  That is target probabilities, or which places of the clip a masked task shows.
  """
  video = batch['video']
  if config.task.kind == 'masked':
    return video, places_of_step(config, jax.random.fold_in(key, 2), len(video))
  labels = task_targets(config.task, batch['label'])
  return mix(config.mix, jax.random.fold_in(key, 1), video, labels)


def _objective(config: Config, model: ViViT, class_weights: np.ndarray | None) -> Objective:
  """Returns (params, video, targets, key) -> (mean loss, rows of logits or of losses)."""
  train = config.train
  weights = None if class_weights is None else jnp.asarray(class_weights)

  def objective(params: Any, video: Array, targets: Array, key: Array) -> tuple[Array, Array]:
    if train.freeze:  # avoids their backward pass
      trained = is_trained(params, train.freeze)
      params = jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trained)
    if config.task.kind == 'masked':
      each = reconstruction_loss(config, model, params, video, targets, key)
      return each.mean(), each[:, None]
    logits = apply(model, params, values_of(video, config.clip), key)
    return losses.loss(config.task, logits, targets, train.label_smoothing, weights), logits

  return objective


def host_cut(config: Config, device: str) -> Callable[[Any], Any] | None:
  """Returns the function by which the host cuts videos into tubelets, or None for whole videos."""
  whole = config.mix.mixup or config.mix.cutmix  # these need whole frames
  if whole or not cut_by_host(config.model, device):
    return None
  return functools.partial(cut, patch=config.model.patch)


def _split_as_params(gradient: Gradient) -> Gradient:
  """Returns the same function with gradients sharded like the parameters before the global norm."""
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
  """Returns `train_step` jitted over the mesh: batch and state are sharded, the state is donated.

  When it is traced, `say` is called with a line for each attention kernel that `auto` chose.
  """
  _check_kernel(model, config.clip, mesh)

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


def _check_kernel(model: ViViT, clip: Clip, mesh: Mesh) -> None:
  """Refuses a kernel chosen by name that cannot run, before anything else begins."""
  check_kernel(model.config, mesh.devices.flat[0].device_kind)
  if model.config.attention_kernel == 'short':  # depends on the number of tokens of each stage
    video = video_shape(clip, mesh.shape['data'] * mesh.shape['fsdp'])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      jax.eval_shape(functools.partial(apply, model), abstract_params(model, clip), video)


@functools.cache  # validation and the final test share a compilation
def compile_forward(
  model: ViViT, mesh: Mesh, clip: Clip = CLIP
) -> Callable[[Any, Mapping[str, Any]], np.ndarray]:
  """Returns a function (params, batch of this process) -> float32 logits of its rows."""
  _check_kernel(model, clip, mesh)

  @functools.partial(
    jax.jit,
    in_shardings=(None, batch_sharding(mesh, video=True)),  # parameters keep their sharding
    out_shardings=batch_sharding(mesh),
  )
  def forward(params: Any, video: Array) -> Array:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return apply(model, params, normalize_pixels(video, clip.mean, clip.std))

  return lambda params, batch: local_rows(forward(params, shard_batch(mesh, batch['video'])))
