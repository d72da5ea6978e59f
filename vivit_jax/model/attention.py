# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention along chosen axes of a token grid, with heads split into groups."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.model.kernels import attend
from vivit_jax.model.partitioning import compiled_for, gather_context
from vivit_jax.model.positions import Rotation, turned
from vivit_jax.model.product import product

# Axes of tokens [..., T, S, D]; a plain sequence [..., N, D] has only SPACE.
TIME, SPACE = -3, -2


def flat_kernel(
  module: nn.Module, shape: tuple[int, ...], ins: int, init: nn.initializers.Initializer
) -> Float[Array, '...']:
  """Returns the parameter `kernel` of a module; the initializer sees it as a matrix [in, out].

  Args:
    module: the module that owns the parameter.
    shape: kernel shape.
    ins: number of leading kernel axes that are input axes.
    init: initializer for matrices [in, out].
  """
  flat = math.prod(shape[:ins]), math.prod(shape[ins:])
  kernel = module.param('kernel', lambda key: init(key, flat, jnp.float32).reshape(shape))
  return jnp.asarray(kernel)  # parameters may be NumPy arrays


class Projection(nn.Module):
  """Linear layer to or from heads, stored like flax's DenseGeneral, computed as one matrix product.

  With the kernel as [width, heads, dim], TPUs pad dim to 128 lanes and copy it for every product.

  Attributes:
    shape: kernel shape, [width, heads, dim] or [heads, dim, width].
    ins: number of leading kernel axes that are input axes.
    gradient: type in which gradients are summed, see `product`.
    use_bias: whether to add a bias.
  """

  shape: tuple[int, int, int]
  ins: int
  dtype: jnp.dtype
  kernel_init: nn.initializers.Initializer
  gradient: str
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b o']:
    outs = self.shape[self.ins :]
    kernel = flat_kernel(self, self.shape, self.ins, self.kernel_init)
    bias = self.param('bias', nn.initializers.zeros, outs) if self.use_bias else None
    matrix = kernel.astype(self.dtype).reshape(-1, math.prod(outs))
    if compiled_for().startswith('TPU'):  # otherwise XLA undoes the reshape
      matrix = jax.lax.optimization_barrier(matrix)
    result = product(x, matrix, self.gradient)
    return result if bias is None else result + bias.astype(self.dtype).reshape(-1)


class Attention(nn.Module):
  """Self-attention in which each group of heads attends along one axis (paper section 3.3).

  With one axis this is standard attention. With (TIME, SPACE) the first half of the heads attends
  along time and the second half along space (model 4, factorised dot-product attention).

  Attributes:
    tokens: number of real tokens along SPACE; any after them are padding. None = all are real.
  """

  config: Model
  axes: tuple[int, ...]
  out_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  tokens: int | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, '*b n d'], train: bool = False, turn: Rotation | None = None
  ) -> Float[Array, '*b n d']:
    """Returns the attention output; x is [..., T, S, D] if an axis is TIME, otherwise [..., N, D].

    Args:
      x: tokens.
      train: whether to apply dropout to the attention weights.
      turn: rotary positions of the tokens, or None.
    """
    config = self.config
    dtype = jnp.dtype(config.dtype)
    split = (config.heads, config.width // config.heads)
    init, gradient = nn.initializers.xavier_uniform(), config.gradient_dtype
    query, key, value = (
      checkpoint_name(
        Projection((x.shape[-1], *split), 1, dtype, init, gradient, bias, name=name)(x), 'qkv'
      )
      for name, bias in (('query', True), ('key', config.key_bias), ('value', True))
    )
    query, key, value = (y.reshape(*y.shape[:-1], *split) for y in (query, key, value))
    if turn is not None:
      query, key = turned(query, turn), turned(key, turn)
    drops = train and config.attention_dropout > 0
    drop = nn.Dropout(config.attention_dropout, deterministic=False) if drops else None
    groups = []
    parts = (jnp.split(tensor, len(self.axes), axis=-2) for tensor in (query, key, value))
    for axis, q, k, v in zip(self.axes, *parts, strict=True):
      if axis == TIME or x.ndim == 3:  # the axis that may be sharded
        k, v = gather_context(k), gather_context(v)
      # The split into heads has moved every axis one further from the end.
      q, k, v = (jnp.moveaxis(tensor, axis - 1, -3) for tensor in (q, k, v))
      tokens = self.tokens if axis == SPACE else None
      found = attend(config.attention_kernel, q, k, v, drop, tokens, config.logit_cap)
      groups.append(checkpoint_name(jnp.moveaxis(found, -3, axis - 1), 'attention'))
    heads = jnp.concatenate(groups, axis=-2) if len(groups) > 1 else groups[0]
    heads = heads.reshape(*heads.shape[:-2], -1)
    shape = (*split, config.width)
    return Projection(shape, 2, dtype, self.out_init, gradient, name='out')(heads)
