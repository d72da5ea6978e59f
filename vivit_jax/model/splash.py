# SPDX-License-Identifier: Apache-2.0
"""Google's attention for long sequences on TPUs, one of JAX's own Pallas kernels.

Tokamax develops it further, but as an experiment, and pins packages that need not be there.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LANES = 128  # of a register: blocks are multiples of it
LEAST, MOST = 384, 768  # tokens of a block: less is slow, more does not fit the vector memory


def splash(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  tokens: int | None = None,
  interpret: bool = False,
  cap: float | None = None,
) -> Float[Array, '*b q h d']:
  """Computes the weights a block at a time, forwards and backwards, and stores none of them.

  Args:
    query: [..., tokens, heads, dim], any number of tokens; key and value likewise. Where that is a
      multiple of `block_size`, nothing is padded or cut.
    tokens: how many of the keys there are; no query looks at those behind them. All by default.
    interpret: without a TPU, as slow as it is exact: for tests.
    cap: of the logits, as in `kernels.attend`.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (  # takes a second
    splash_attention_kernel as library,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  count = key.shape[-3] if tokens is None else tokens
  rows, columns = block_size(query.shape[-3]), block_size(key.shape[-3])
  scaled = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
  q, k, v = _heads(scaled, rows), _heads(key, columns), _heads(value, columns)
  mask = masks.MultiHeadMask([masks.FullMask((q.shape[-2], k.shape[-2]))] * len(q))
  sizes = library.BlockSizes(
    block_q=rows,
    block_kv=columns,
    block_q_dkv=rows,
    block_kv_dkv=columns,
    block_q_dq=rows,
    block_kv_dq=columns,
  )
  kernel = library.make_splash_mha(
    mask,
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
    attn_logits_soft_cap=cap,
  )
  # What fills up the last block is another segment, at which no query looks.
  filled = (jnp.arange(k.shape[-2]) >= count).astype(jnp.int32)
  segments = library.SegmentIds(jnp.zeros(q.shape[-2], jnp.int32), filled)
  result = kernel(q, k, v, segments)[:, : query.shape[-3]].reshape(
    *query.shape[:-3], query.shape[-2], -1, query.shape[-1]
  )
  return jnp.moveaxis(result, -3, -2)


def block_size(tokens: int) -> int:
  """Returns the tokens of a block between LEAST and MOST that leaves the fewest to fill."""
  most = -(-tokens // LANES) * LANES
  sizes = range(min(most, LEAST), min(most, MOST) + 1, LANES)
  return min(sizes, key=lambda size: (-tokens % size, -size))


def _heads(x: Float[Array, '*b n h d'], block: int) -> Float[Array, 'heads filled d']:
  """Returns the heads of all examples as if they were of one, with zeros up to a whole block.

  Under `vmap` the library would write its scratch to the device's memory for each example.
  """
  x = jnp.moveaxis(x, -2, -3)
  x = x.reshape(-1, *x.shape[-2:])
  return jnp.pad(x, [(0, 0), (0, -x.shape[-2] % block), (0, 0)])
