# SPDX-License-Identifier: Apache-2.0
"""Google's attention for long sequences on TPUs, one of JAX's own Pallas kernels.

Tokamax continues its development, but is experimental and pins packages that are not needed here.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LANES = 128  # of a register; block sizes are multiples of it
LEAST, MOST = 384, 768  # tokens per block: fewer are slow, more exceed the vector memory


def splash(
  query: Float[Array, '*b q h d'],
  key: Float[Array, '*b k h d'],
  value: Float[Array, '*b k h d'],
  tokens: int | None = None,
  interpret: bool = False,
  cap: float | None = None,
) -> Float[Array, '*b q h d']:
  """Computes attention weights block by block in both passes, and stores none of them.

  Args:
    query: [..., tokens, heads, dim]; key and value likewise. A number of tokens that is not a
      multiple of `block_size` is padded.
    tokens: number of real keys; any after them are padding. None = all.
    interpret: runs without a TPU, exact but slow, for tests.
    cap: as in `kernels.attend`.
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
  # Padding is a separate segment, which no query attends to.
  filled = (jnp.arange(k.shape[-2]) >= count).astype(jnp.int32)
  segments = library.SegmentIds(jnp.zeros(q.shape[-2], jnp.int32), filled)
  result = kernel(q, k, v, segments)[:, : query.shape[-3]].reshape(
    *query.shape[:-3], query.shape[-2], -1, query.shape[-1]
  )
  return jnp.moveaxis(result, -3, -2)


def block_size(tokens: int) -> int:
  """Returns the block size between LEAST and MOST that needs the least padding."""
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
