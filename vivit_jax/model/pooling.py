# SPDX-License-Identifier: Apache-2.0
"""Attention pooling, in which a learned query attends to all tokens, and the classifier head."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.errors import InputError
from vivit_jax.model.attention import SPACE, Projection, flat_kernel
from vivit_jax.model.transformer import Blocks, Mlp


class Pooler(nn.Module):
  """Pools tokens by attention, for config.model.pooling `attention` or `attention_block`.

  `attention` is VideoPrism's: softmax(query key^T * scale) value, a linear layer, then a norm. The
  scale is softplus(s) / (softplus(0) sqrt(d)) per channel of a head, with s learned.

  `attention_block` is V-JEPA 2's: self-attention blocks over the tokens, then a block with a
  learned query, which has no norm for the query and no projection after its attention.
  """

  config: Model

  @nn.compact
  def __call__(self, x: Float[Array, 'b n d'], train: bool = False) -> Float[Array, 'b d']:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    whole = config.pooling == 'attention_block'
    width = config.pooler_width or config.width
    query = self.param('query', nn.initializers.normal(0.02), (1, config.width))
    if whole:
      depth = config.pooler_layers
      inner = dataclasses.replace(config, drop_path=0.0, logit_cap=None, pooling='none')
      blocks = Blocks(inner, ((SPACE,),), depth)
      if depth:
        nn.share_scope(self, blocks)
        x = blocks(x, train)
      x = self._norm('attention_norm')(x)
    found = CrossAttention(config, width, not whole, name='attention')(query, x)
    if not whole:
      return self._norm('norm')(found)
    found = query.astype(dtype) + found
    return found + Mlp(config, name='mlp')(self._norm('mlp_norm')(found), train)

  def _norm(self, name: str) -> nn.LayerNorm:
    dtype = jnp.dtype(self.config.dtype)
    return nn.LayerNorm(epsilon=self.config.norm_epsilon, dtype=dtype, name=name)


class Weights(nn.Module):
  """Parameters of a projection to heads: kernel [width, heads, dim] and bias [heads, dim].

  Attributes:
    shape: kernel shape.
  """

  shape: tuple[int, int, int]

  @nn.compact
  def __call__(self) -> tuple[Float[Array, 'w h e'], Float[Array, 'h e']]:
    kernel = flat_kernel(self, self.shape, 1, nn.initializers.xavier_uniform())
    return kernel, self.param('bias', nn.initializers.zeros, self.shape[1:])


class CrossAttention(nn.Module):
  """Attention of one learned query to all tokens, without a cap on the logits.

  All clips have the same query, so q . (W x) is computed as (q W) . x, and the weighted sum of the
  values as W times the weighted sum of the tokens. This projects each token to `heads` numbers
  twice, instead of to `width` numbers twice. The key bias shifts all logits equally and therefore
  has no effect.

  Attributes:
    config: number of heads and type.
    width: width of queries, keys and values, over all heads.
    scaled: whether queries have a learned scale and a linear layer follows (VideoPrism).
  """

  config: Model
  width: int
  scaled: bool

  @nn.compact
  def __call__(self, asked: Float[Array, '1 d'], x: Float[Array, 'b n d']) -> Float[Array, 'b out']:
    config, dtype = self.config, jnp.dtype(self.config.dtype)
    dim = self.width // config.heads
    shape = (config.width, config.heads, dim)
    (query_kernel, query_bias), (key_kernel, _), (value_kernel, value_bias) = (
      Weights(shape, name=name)() for name in ('query', 'key', 'value')
    )
    query = jnp.einsum('w,whe->he', asked[0], query_kernel) + query_bias
    query = query / math.sqrt(dim)
    if self.scaled:
      scale = self.param('scale', nn.initializers.zeros, (dim,))
      query = query * jax.nn.softplus(scale) / math.log(2)
    looks = jnp.einsum('he,whe->hw', query, key_kernel).astype(dtype)
    logits = jnp.einsum('hw,bnw->bhn', looks, x).astype(jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(dtype)
    seen = jnp.einsum('bhn,bnw->bhw', weights, x)
    found = jnp.einsum('bhw,whe->bhe', seen, value_kernel.astype(dtype)) + value_bias.astype(dtype)
    found = found.reshape(len(x), self.width)
    if self.scaled:
      init = nn.initializers.xavier_uniform()
      out = (config.heads, dim, config.width)
      return Projection(out, 2, dtype, init, config.gradient_dtype, name='out')(found)
    return found


class Head(nn.Module):
  """Final pooling of the last stage's outputs, dropout, and the linear classifier.

  Its parameters are `pooler` and `head` in the model's tree.

  Attributes:
    config: pooling and dropout.
    classes: number of logits; 0 returns the classifier's input instead.
  """

  config: Model
  classes: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b *n d'], train: bool = False) -> Float[Array, 'b *out']:
    pooling = self.config.pooling
    if pooling.startswith('attention'):
      x = Pooler(self.config, name='pooler')(x, train)
    elif x.ndim == 3 and pooling != 'none':
      x = x.mean(axis=1)  # over all tokens; the paper's average pooling if temporal_layers = 0
    if not self.classes:
      return x.astype(jnp.float32)
    if pooling == 'none':
      raise InputError("config.model.pooling='none' has no head: use 'attention' or 'mean'")
    x = nn.Dropout(self.config.head_dropout, deterministic=not train)(x)
    head = nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name='head')
    return head(x.astype(jnp.float32))
