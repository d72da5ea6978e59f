# SPDX-License-Identifier: Apache-2.0
"""A plain port of ViViT's models 1 and 2 with flax's own layers, as a baseline for speed."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from vivit_jax.config.schema import Model


class Block(nn.Module):
  """Pre-norm transformer block."""

  config: Model

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    y = nn.LayerNorm(dtype=dtype)(x)
    x = x + nn.MultiHeadDotProductAttention(config.heads, dtype=dtype)(y, y)
    y = nn.LayerNorm(dtype=dtype)(x)
    y = nn.gelu(nn.Dense(config.mlp_dim, dtype=dtype)(y))
    return x + nn.Dense(config.width, dtype=dtype)(y)


class Transformer(nn.Module):
  """Positions, blocks and norm behind a cls token, which is what it returns."""

  config: Model
  layers: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype = jnp.dtype(self.config.dtype)
    cls = self.param('cls', nn.initializers.zeros, (1, 1, x.shape[-1])).astype(dtype)
    x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
    shape = (1, *x.shape[1:])
    x = x + self.param('position', nn.initializers.normal(0.02), shape).astype(dtype)
    for _ in range(self.layers):
      x = Block(self.config)(x)
    return nn.LayerNorm(dtype=dtype)(x)[:, 0]


class PlainViViT(nn.Module):
  """Models 1 and 2, tubelets by a convolution."""

  config: Model
  classes: int

  @nn.compact
  def __call__(self, video: jax.Array) -> jax.Array:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    x = nn.Conv(config.width, config.patch, config.patch, 'VALID', dtype=dtype)(video)
    b, t, h, w, d = x.shape
    if config.attention == 'spatio_temporal':
      x = Transformer(config, config.layers)(x.reshape(b, t * h * w, d))
    else:
      x = Transformer(config, config.layers)(x.reshape(b * t, h * w, d)).reshape(b, t, d)
      x = Transformer(config, config.temporal_layers)(x)
    return nn.Dense(self.classes)(x.astype(jnp.float32))


def train_step(
  model: PlainViViT,
  optimizer: optax.GradientTransformation,
  state: tuple[Any, Any],
  batch: dict[str, jax.Array],
) -> tuple[tuple[Any, Any], jax.Array]:
  """Returns (parameters, optimiser state) after one update, and the loss."""
  video = batch['video'].astype(jnp.float32) / 127.5 - 1.0

  def loss(params: Any) -> jax.Array:
    logits = model.apply({'params': params}, video)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'][:, 0]).mean()

  value, gradients = jax.value_and_grad(loss)(state[0])
  updates, opt_state = optimizer.update(gradients, state[1], state[0])
  return (optax.apply_updates(state[0], updates), opt_state), value
