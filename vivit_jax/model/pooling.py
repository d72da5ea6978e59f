# SPDX-License-Identifier: Apache-2.0
"""Pooling by attention: a learned query looks at all tokens of a clip."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.model.attention import SPACE, Projection
from vivit_jax.model.kernels import plain
from vivit_jax.model.transformer import Blocks, Mlp


class Pooler(nn.Module):
  """Config.pooling `attention` or `attention_block`.

  `attention` is VideoPrism's: softmax(query key^T * scale) value and a linear layer, then a norm.
  Its scale is softplus(s) / (softplus(0) sqrt(d)) for each channel of a head, with s learned.

  `attention_block` is V-JEPA 2's: blocks of self-attention over the tokens, then a block whose
  query is learned. It is neither normed nor projected behind its attention.
  """

  config: Model

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], train: bool = False) -> Float[Array, 'b d']:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    whole = config.pooling == 'attention_block'
    width = config.pooler_width or config.width
    query = self.param('query', nn.initializers.normal(0.02), (1, config.width))
    asked = jnp.broadcast_to(query.astype(dtype), (x.shape[0], 1, config.width))
    if whole:
      depth = config.pooler_layers
      inner = dataclasses.replace(config, drop_path=0.0, logit_cap=None, pooling='none')
      blocks = Blocks(inner, ((SPACE,),), depth)
      if depth:
        nn.share_scope(self, blocks)
        x = blocks(x, train)
      x = self._norm('attention_norm')(x)
    found = CrossAttention(config, width, not whole, name='attention')(asked, x)
    if not whole:
      return self._norm('norm')(found)[:, 0]
    found = asked + found
    return (found + Mlp(config, name='mlp')(self._norm('mlp_norm')(found), train))[:, 0]

  def _norm(self, name: str) -> nn.LayerNorm:
    dtype = jnp.dtype(self.config.dtype)
    return nn.LayerNorm(epsilon=self.config.norm_epsilon, dtype=dtype, name=name)


class CrossAttention(nn.Module):
  """Attention of queries at tokens, whose logits are not capped.

  Attributes:
    config: its heads and type.
    width: of queries, keys and values, over all heads.
    scaled: queries have a learned scale, and a linear layer follows.
  """

  config: Model
  width: int
  scaled: bool

  @nn.compact
  def __call__(
    self, asked: Float[Array, 'b q d'], x: Float[Array, 'b n d']
  ) -> Float[Array, 'b q d']:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    split, init = (config.heads, self.width // config.heads), nn.initializers.xavier_uniform()
    query, key, value = (
      Projection((config.width, *split), 1, dtype, init, config.gradient_dtype, name=name)(
        y
      ).reshape(*y.shape[:-1], *split)
      for name, y in (('query', asked), ('key', x), ('value', x))
    )
    if self.scaled:
      scale = self.param('scale', nn.initializers.zeros, split[1:])
      query = query * (jax.nn.softplus(scale) / math.log(2)).astype(dtype)
    found = plain(query, key, value)
    found = found.reshape(*found.shape[:-2], -1)
    if self.scaled:
      return Projection((*split, config.width), 2, dtype, init, config.gradient_dtype, name='out')(
        found
      )
    return found
