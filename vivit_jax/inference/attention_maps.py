# SPDX-License-Identifier: Apache-2.0
"""Attention maps: attention rollout over space and time, and gradients for one class.

Rollout (Abnar and Zuidema, arXiv 2005.00928) averages each layer's attention weights over the
heads, adds the residual with a weight of one half, and multiplies all layers. Only one row of this
product is needed, so a row vector is propagated backwards through the layers instead:
v <- (v + v A) / 2. Rollout is independent of the class; the gradient is for one class.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.inference.stages import check_plain, embed, encode, is_temporal, plainly
from vivit_jax.model.attention import Attention
from vivit_jax.model.stages import Stage, stages
from vivit_jax.model.tokenizer import sampled_frame_indices
from vivit_jax.model.vivit import ViViT, apply

ROWS = 256  # rows of an attention matrix computed at a time


@dataclasses.dataclass(frozen=True)
class Seen:
  """A recorded call of an attention layer.

  Attributes:
    axes: axes along which its groups of heads attend.
    params: its parameters.
    x: its input, [B, ..., D].
  """

  axes: tuple[int, ...]
  params: Any
  x: jax.Array


def rollout(model: ViViT, params: Any, video: Float[Array, 'b f h w c']) -> Float[Array, 'b t s']:
  """Returns the contribution of each token of the grid to the head's input, by rollout.

  The share of cls tokens is dropped; each clip's map sums to 1.

  Args:
    video: normalized pixel values as expected by the weights.
  """
  check_plain(model.config, 'attention maps')
  # This kernel needs no padding, so all tokens in attention layers are real.
  model = plainly(model, attention_kernel='blockwise')
  x = embed(model, params, video)
  b, t, s, _ = x.shape
  runs = []
  for stage in stages(model.config):
    x, seen = watch(model, params, stage, x)
    runs.append((stage, seen, x))
  # Backwards from the head to the tokens, starting with the outputs of the last stage.
  weight = jnp.full((b, t), 1 / t) if x.ndim == 3 else jnp.ones((b,))
  for stage, seen, _ in reversed(runs):
    weight = _stage_rollout(model.config, stage, seen, weight)
  grid = weight.reshape(b, t, s)
  return grid / grid.sum(axis=(1, 2), keepdims=True)


def watch(
  model: ViViT, params: Any, stage: Stage, x: Float[Array, 'b *n d']
) -> tuple[Float[Array, 'b *pooled d'], list[Seen]]:
  """Returns the pooled output of one stage, and its attention calls in execution order."""
  seen: list[Seen] = []

  def note(call: Callable, arguments: Any, keywords: Any, context: nn.module.InterceptorContext):
    module = context.module
    if isinstance(module, Attention) and context.method_name == '__call__':
      seen.append(Seen(module.axes, module.variables['params'], arguments[0]))
    return call(*arguments, **keywords)

  with nn.intercept_methods(note):
    pooled = encode(model, params, stage, x)
  layers = model.config.temporal_layers if is_temporal(stage) else model.config.layers
  assert len(seen) == layers * len(stage.series)
  return pooled, seen


def _stage_rollout(
  config: Model, stage: Stage, seen: list[Seen], weight: Float[Array, 'b *rest']
) -> Float[Array, 'b *tokens']:
  """Returns the weights of a stage's input tokens, given the weights of its pooled outputs.

  Args:
    config: model settings.
    stage: the stage, with its attention calls `seen`.
    weight: weight of each pooled output: [B, T] if there is one per frame, otherwise [B].
  """
  tokens = seen[-1].x.shape[1:-1]  # including cls tokens
  cls = config.pooling == 'cls'
  per_frame = weight.ndim == 2
  if cls:
    v = jnp.zeros((*weight.shape, tokens[-1])).at[..., 0].set(weight)
  elif per_frame:
    v = jnp.broadcast_to(weight[..., None] / tokens[-1], (*weight.shape, tokens[-1]))
  else:
    v = jnp.broadcast_to(1 / jnp.prod(jnp.array(tokens)), (*weight.shape, *tokens))
  for attention in reversed(seen):
    v = 0.5 * v + 0.5 * back(config, attention, v)
  return v[..., 1:] if cls else v


def back(config: Model, seen: Seen, v: Float[Array, 'b *n']) -> Float[Array, 'b *n']:
  """Returns v A, with A the attention weights of one layer, averaged over its heads."""
  parts = []
  for axis, query, key in _projections(config, seen):
    # The split into heads has moved every axis one further from the end.
    moved = [jnp.moveaxis(x, axis - 1, -3) for x in (query, key)]
    row = jnp.moveaxis(v, axis + 1, -1)
    parts.append(jnp.moveaxis(_row_times_weights(row, *moved), -1, axis + 1))
  return sum(parts[1:], parts[0]) / len(parts)


def _projections(config: Model, seen: Seen) -> Iterator[tuple[int, jax.Array, jax.Array]]:
  """Yields the axis of each group of heads, with its queries and keys [B, ..., heads, dim]."""
  split = (config.heads, config.width // config.heads)
  dense = nn.DenseGeneral(split, dtype=jnp.dtype(config.dtype))
  query, key = (
    cast(jax.Array, dense.apply({'params': seen.params[name]}, seen.x)) for name in ('query', 'key')
  )
  groups = (jnp.split(x, len(seen.axes), axis=-2) for x in (query, key))
  yield from zip(seen.axes, *groups, strict=True)


def _row_times_weights(
  v: Float[Array, '*b n'], query: Float[Array, '*b n h d'], key: Float[Array, '*b n h d']
) -> Float[Array, '*b n']:
  """Returns v softmax(query key^T / sqrt(d)), averaged over the heads, some rows at a time."""
  tokens = v.shape[-1]
  rows = min(ROWS, tokens)
  blocks = -(-tokens // rows)
  more = blocks * rows - tokens  # weighted with zero
  query = jnp.pad(query, [(0, 0)] * (query.ndim - 3) + [(0, more), (0, 0), (0, 0)])
  v = jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, more)])
  scale = 1 / jnp.sqrt(jnp.float32(query.shape[-1]))

  def block(k: jax.Array) -> jax.Array:
    some = jax.lax.dynamic_slice_in_dim(query, k * rows, rows, axis=query.ndim - 3)
    weight = jax.lax.dynamic_slice_in_dim(v, k * rows, rows, axis=v.ndim - 1)
    scores = jnp.einsum('...qhd,...khd->...hqk', some, key).astype(jnp.float32) * scale
    return jnp.einsum('...q,...hqk->...k', weight, jax.nn.softmax(scores)) / query.shape[-2]

  if blocks == 1:
    return block(jnp.int32(0))
  return jax.lax.map(block, jnp.arange(blocks)).sum(axis=0)


def gradient(
  model: ViViT, params: Any, video: Float[Array, 'b f h w c'], of: int
) -> Float[Array, 'b t s']:
  """Returns the absolute gradient of one logit, summed per tubelet; sums to 1 for each clip.

  Args:
    video: normalized pixel values as expected by the weights.
    of: index of the logit along the class axis.
  """
  model = plainly(model)

  def logit(video: jax.Array) -> jax.Array:
    return apply(model, params, video)[:, of].sum()

  return per_tubelet(model.config, jnp.abs(jax.grad(logit)(video)))


def per_tubelet(config: Model, x: Float[Array, 'b f h w c']) -> Float[Array, 'b t s']:
  """Returns the sum over each tubelet's values, divided by the sum over the clip."""
  if config.sampled_frames is not None:
    x = x[:, jnp.array(sampled_frame_indices(x.shape[1], config.sampled_frames))]
  t, h, w = config.patch
  b, f, height, width, c = x.shape
  parts = x.reshape(b, f // t, t, height // h, h, width // w, w, c)
  grid = parts.sum(axis=(2, 4, 6, 7)).reshape(b, f // t, -1)
  return grid / jnp.maximum(grid.sum(axis=(1, 2), keepdims=True), 1e-30)
