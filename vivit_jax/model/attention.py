# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention along chosen axes of a token grid, heads split in parallel groups."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.model.kernels import attend
from vivit_jax.model.partitioning import gather_context

# Axes of [..., T, S, D]; a plain token sequence [..., N, D] has only SPACE.
TIME, SPACE = -3, -2


class Attention(nn.Module):
  """Self-attention whose groups of heads each look along one axis (paper section 3.3).

  With one axis this is ordinary attention; with (TIME, SPACE) the first half of the heads looks
  along time and the second along space (model 4, factorised dot-product attention).
  """

  config: Model
  axes: tuple[int, ...]
  out_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: Float[Array, '*b n d'], train: bool = False) -> Float[Array, '*b n d']:
    """Returns x's update; x is [..., T, S, D] where an axis is TIME, else [..., N, D]."""
    config = self.config
    dtype = jnp.dtype(config.dtype)
    split = (config.heads, config.width // config.heads)
    init = nn.initializers.xavier_uniform()
    query, key, value = (
      nn.DenseGeneral(split, kernel_init=init, dtype=dtype, name=name)(x)
      for name in ('query', 'key', 'value')
    )
    drops = train and config.attention_dropout > 0
    drop = nn.Dropout(config.attention_dropout, deterministic=False) if drops else None
    groups = []
    parts = (jnp.split(tensor, len(self.axes), axis=-2) for tensor in (query, key, value))
    for axis, q, k, v in zip(self.axes, *parts, strict=True):
      if axis == TIME or x.ndim == 3:  # along what devices may share
        k, v = gather_context(k), gather_context(v)
      # Behind the split into heads every axis stands one further from the end.
      q, k, v = (jnp.moveaxis(tensor, axis - 1, -3) for tensor in (q, k, v))
      groups.append(jnp.moveaxis(attend(config.attention_kernel, q, k, v, drop), -3, axis - 1))
    heads = jnp.concatenate(groups, axis=-2) if len(groups) > 1 else groups[0]
    return nn.DenseGeneral(
      config.width, axis=(-2, -1), kernel_init=self.out_init, dtype=dtype, name='out'
    )(heads)
