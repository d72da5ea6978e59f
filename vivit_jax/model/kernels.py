# SPDX-License-Identifier: Apache-2.0
"""Ways to compute the same attention, and which one to take on which device."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vivit_jax.model.layout import device_kind, on_each_device, rows_divide, sharing
from vivit_jax.model.splash import splash

Drop = Callable[[Array], Array]

# From here on `auto` keeps one block of rows of the attention matrix instead of all: below it the
# matrix of a head is at most 16 MB, and the plain product takes less time.
LONG = 2048  # tokens
BLOCK = 256  # rows


Kernel = Literal['auto', 'plain', 'blockwise', 'cudnn', 'splash']


def attend(
  kernel: Kernel,
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  drop: Drop | None = None,
) -> Float[Array, '*b q h d']:
  """Returns softmax(query key^T / sqrt(d)) value per head (equation 6 of ViT's appendix A).

  Args:
    kernel: `cudnn` is NVIDIA's flash attention, for half precision; `splash` Google's, for TPUs;
      `auto` as in `choose`.
    query: [..., tokens, heads, dim], JAX's public attention layout; key and value likewise.
    drop: dropout of the attention weights, for which they have to exist: only `plain` has them.
  """
  if kernel == 'auto':
    kernel = choose(query, key.shape[-3], drop)
  if kernel == 'plain':
    return plain(query, key, value, drop)
  if kernel == 'splash':
    interpret = not device_kind().startswith('TPU')
    return on_each_device(partial(splash, interpret=interpret), query, key, value)
  whole = blockwise if kernel == 'blockwise' else cudnn
  if sharing() == 1:  # XLA can split it
    return whole(query, key, value)
  return on_each_device(whole, query, key, value)


def choose(query: jax.Array | jax.ShapeDtypeStruct, keys: int, drop: Drop | None) -> Kernel:
  """Returns `plain` for short sequences; for LONG ones what the device has, else `blockwise`.

  The device is that of the mesh that the program is compiled for, which may not be there.
  """
  if keys < LONG or drop is not None:
    return 'plain'
  device, width = device_kind(), query.shape[-1]
  if device.startswith('TPU') and width <= 128 and rows_divide(query.shape[0]):
    return 'splash'
  half = query.dtype in (jnp.bfloat16, jnp.float16)
  if device.startswith('NVIDIA') and half and width <= 128 and width % 8 == 0:
    return 'cudnn'
  return 'blockwise'


def plain(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  drop: Drop | None = None,
) -> Float[Array, '*b q h d']:
  """Computes the whole matrix of weights at once."""
  query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
  scores = jnp.einsum('...qhd,...khd->...hqk', query, key)
  weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(value.dtype)
  if drop is not None:
    weights = drop(weights)
  return jnp.einsum('...hqk,...khd->...qhd', weights, value)


def blockwise(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  rows: int = BLOCK,
) -> Float[Array, '*b q h d']:
  """Computes the matrix of weights a block of rows at a time, and again in the backward pass.

  Memory grows with the number of tokens, not with its square. Each row is a whole softmax, so that
  the numbers are those of `plain`. Rows that fill up the last block are cut off again: no mask.
  """
  tokens = query.shape[-3]
  blocks = -(-tokens // rows)
  filled = jnp.pad(
    query, [(0, 0)] * (query.ndim - 3) + [(0, blocks * rows - tokens), (0, 0), (0, 0)]
  )
  parts = jnp.moveaxis(
    filled.reshape(*query.shape[:-3], blocks, rows, *query.shape[-2:]), query.ndim - 3, 0
  )
  one = jax.checkpoint(lambda part: plain(part, key, value))
  result = jnp.moveaxis(jax.lax.map(one, parts), 0, query.ndim - 3)
  return result.reshape(filled.shape)[..., :tokens, :, :]


def cudnn(
  query: Float[Array, '*b q h d'], key: Float[Array, '*b k h d'], value: Float[Array, '*b k h d']
) -> Float[Array, '*b q h d']:
  """Calls NVIDIA's flash attention, which never stores the matrix of weights."""
  flat = [x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
  return jax.nn.dot_product_attention(*flat, implementation='cudnn').reshape(query.shape)
