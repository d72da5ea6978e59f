# SPDX-License-Identifier: Apache-2.0
"""Attention kernels, all with the same result, and the choice between them by device."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.errors import ConfigError
from vivit_jax.model.choices import cudnn_refusal, note
from vivit_jax.model.partitioning import context_size, device_kind, on_each_device, rows_divide
from vivit_jax.model.short import fits, short
from vivit_jax.model.splash import block_size, splash

Drop = Callable[[Array], Array]

# From this length on, `auto` computes the attention matrix in blocks of rows. For shorter sequences
# the matrix of a head is at most 16 MB, and the plain product is faster.
LONG = 2048  # tokens
BLOCK = 256  # rows
SHORTEST = 128  # tokens from which `cudnn` and `short` are faster than the plain product

Kernel = Literal['auto', 'plain', 'blockwise', 'cudnn', 'splash', 'short']

# Kernels take sequence lengths that are multiples of this without padding. JAX rejects gradients of
# odd lengths with cuDNN, and cuBLAS copies matrices whose rows are not a multiple of 16 bytes; TPU
# registers have 8 rows.
MULTIPLE: dict[str, int] = {'cudnn': 8, 'short': 8}
FILLS = (*MULTIPLE, 'splash')  # kernels that can mask padding keys

CAPPED = ('plain', 'blockwise', 'splash')  # kernels that can cap the logits


def attend(
  kernel: Kernel,
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  drop: Drop | None = None,
  tokens: int | None = None,
  cap: float | None = None,
) -> Float[Array, '*b q h d']:
  """Returns softmax(query key^T / sqrt(d)) value per head (equation 6 of ViT's appendix A).

  Args:
    kernel: `cudnn` is NVIDIA's flash attention, for half precision; `splash` Google's, for TPUs,
      `short` that of `model.short`; `auto` as in `choose`.
    query: [..., tokens, heads, dim], JAX's public attention layout; key and value likewise.
    drop: dropout of the attention weights; only `plain` can apply it.
    tokens: number of real keys; any after them are padding, which no query attends to. None = all.
    cap: logits x become cap * tanh(x / cap) before the softmax; only the kernels in CAPPED can.
  """
  tokens = key.shape[-3] if tokens is None else tokens
  if kernel == 'auto':
    kernel = choose(query, tokens, drop, cap)
    note(kernel, device_kind(), query, tokens, drop is not None, cap)
  if cap is not None and kernel not in CAPPED:
    raise ConfigError(_uncapped(kernel, cap))
  if kernel == 'short':
    _check_short(query, tokens)
  if kernel not in FILLS:
    key, value = key[..., :tokens, :, :], value[..., :tokens, :, :]
  if kernel == 'plain':
    return plain(query, key, value, drop, cap)
  if kernel in ('short', 'splash'):
    pallas = short if kernel == 'short' else partial(splash, cap=cap)
    interpret = not device_kind().startswith('TPU')
    return on_each_device(partial(pallas, tokens=tokens, interpret=interpret), query, key, value)
  whole = partial(blockwise, cap=cap) if kernel == 'blockwise' else partial(cudnn, tokens=tokens)
  if context_size() == 1:  # XLA can split it
    return whole(query, key, value)
  return on_each_device(whole, query, key, value)


def choose(
  query: jax.Array | jax.ShapeDtypeStruct,
  keys: int,
  drop: Drop | None,
  cap: float | None = None,
) -> Kernel:
  """Returns the best kernel of the device for this number of keys; else `plain` or `blockwise`.

  The device is the one that the program is compiled for, which this machine may not have.
  """
  if drop is not None:
    return 'plain'
  device, width = device_kind(), query.shape[-1]
  if keys >= SHORTEST and not cudnn_refusal(device, str(query.dtype), width, cap):
    return 'cudnn'
  tpu = device.startswith('TPU') and rows_divide(query.shape[0])
  length, heads = query.shape[-3:-1]
  length += -length % MULTIPLE['short']
  small = fits(length, heads, width, query.dtype.itemsize) and cap is None
  if tpu and keys >= SHORTEST and small:
    # If devices share a sequence, each has fewer queries than keys.
    return 'short' if query.ndim > 4 or context_size() == 1 else 'plain'
  if keys < LONG:
    return 'plain'
  if tpu and width <= 128:
    return 'splash'
  return 'blockwise'


def check_kernel(config: Model, device: str) -> None:
  """Rejects a configured kernel that cannot run on the device.

  Args:
    config: the kernel, type and head size.
    device: JAX's device kind, e.g. 'TPU v5 lite'. CPUs run Pallas kernels in interpret mode.

  Raises:
    ConfigError: names the setting, the device and the remedy.
  """
  kernel, width = config.attention_kernel, config.width // config.heads
  reason = ''
  if config.logit_cap is not None and kernel != 'auto' and kernel not in CAPPED:
    raise ConfigError(_uncapped(kernel, config.logit_cap))
  if kernel == 'cudnn':
    reason = cudnn_refusal(device, config.dtype, width)
  elif kernel in ('splash', 'short') and not device.startswith(('TPU', 'cpu')):
    reason = f'needs a TPU, not {device}'
  if reason:
    raise ConfigError(_refused(kernel, reason))


def _check_short(query: jax.Array, tokens: int) -> None:
  """Refuses sequences that the kernel cannot take, as soon as the program is traced."""
  length, heads, dim = query.shape[-3:]
  if query.ndim == 4 and context_size() > 1:
    raise ConfigError(_refused('short', 'takes whole sequences, which config.mesh.context splits'))
  if device_kind().startswith('TPU') and not fits(length, heads, dim, query.dtype.itemsize):
    reason = (
      f'holds a sequence in the vector memory, which {tokens:,} tokens of {heads} heads of '
      f'{dim} in {query.dtype} exceed'
    )
    raise ConfigError(_refused('short', reason))


def _refused(kernel: str, reason: str) -> str:
  return f"config.model.attention_kernel={kernel!r} {reason}: use 'auto', which takes what fits"


def _uncapped(kernel: str, cap: float) -> str:
  return (
    f'config.model.attention_kernel={kernel!r} cannot cap logits (config.model.logit_cap={cap}): '
    f"use 'auto' or one of {', '.join(CAPPED)}"
  )


def filled(
  kernel: Kernel, query: jax.ShapeDtypeStruct, drops: bool, cap: float | None = None
) -> int:
  """Returns the length to which to pad a sequence once, instead of in every layer.

  Args:
    kernel: as in `attend`.
    query: shape and type of the queries, [..., tokens, heads, dim].
    drops: whether attention weights have dropout.
    cap: as in `attend`.
  """
  tokens = query.shape[-3]
  if kernel == 'auto':
    kernel = choose(query, tokens, (lambda x: x) if drops else None, cap)
  multiple = block_size(tokens) if kernel == 'splash' else MULTIPLE.get(kernel, 1)
  return tokens + -tokens % multiple


def plain(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  drop: Drop | None = None,
  cap: float | None = None,
) -> Float[Array, '*b q h d']:
  """Computes the whole matrix of attention weights at once."""
  query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
  scores = jnp.einsum('...qhd,...khd->...hqk', query, key).astype(jnp.float32)
  if cap is not None:
    scores = cap * jnp.tanh(scores / cap)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  if drop is not None:
    weights = drop(weights)
  return jnp.einsum('...hqk,...khd->...qhd', weights, value)


def blockwise(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  rows: int = BLOCK,
  cap: float | None = None,
) -> Float[Array, '*b q h d']:
  """Computes the attention matrix one block of rows at a time, and recomputes it for gradients.

  Memory is linear, not quadratic, in the number of tokens. Every row is a complete softmax, so the
  result equals that of `plain`. Padding rows of the last block are dropped, so no mask is needed.
  """
  tokens = query.shape[-3]
  blocks = -(-tokens // rows)
  filled = jnp.pad(
    query, [(0, 0)] * (query.ndim - 3) + [(0, blocks * rows - tokens), (0, 0), (0, 0)]
  )
  parts = jnp.moveaxis(
    filled.reshape(*query.shape[:-3], blocks, rows, *query.shape[-2:]), query.ndim - 3, 0
  )
  one = jax.checkpoint(lambda part: plain(part, key, value, cap=cap))
  result = jnp.moveaxis(jax.lax.map(one, parts), 0, query.ndim - 3)
  return result.reshape(filled.shape)[..., :tokens, :, :]


def cudnn(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  tokens: int | None = None,
) -> Float[Array, '*b q h d']:
  """Calls NVIDIA's flash attention, which never stores the attention matrix.

  Args:
    query: [..., tokens, heads, dim]; key and value likewise.
    tokens: number of real keys; any after them are padding.
  """
  tokens = key.shape[-3] if tokens is None else tokens

  def flat(x: jax.Array) -> jax.Array:
    missing = -x.shape[-3] % MULTIPLE['cudnn']  # 0 if the stage has padded it
    x = x.reshape(-1, *x.shape[-3:])
    return jnp.pad(x, [(0, 0), (0, missing), (0, 0), (0, 0)]) if missing else x

  q, k, v = flat(query), flat(key), flat(value)
  lengths = jnp.full(len(k), tokens, jnp.int32) if tokens < k.shape[1] else None
  result = jax.nn.dot_product_attention(
    q, k, v, key_value_seq_lengths=lengths, implementation='cudnn'
  )
  return result[:, : query.shape[-3]].reshape(query.shape)
