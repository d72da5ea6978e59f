# SPDX-License-Identifier: Apache-2.0
"""Attention of short sequences on TPUs, such as the tokens of one frame, as a Pallas kernel.

One grid step handles one sequence with all its heads. Attention matrices stay in vector memory, and
queries, keys and values keep the projections' layout [sequences, tokens, heads * dim]: no
transposes, and heads of 64 channels are not padded to 128 lanes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Bytes; programs may use 16 MiB of vector memory by default, and the compiler needs some of it.
BUDGET = 13 * 2**20


def fits(tokens: int, heads: int, dim: int, itemsize: int) -> bool:
  """Returns whether the backward pass of a sequence fits into vector memory.

  It needs seven arrays of the sequence, double-buffered, and four attention matrices.
  """
  return 2 * 7 * tokens * heads * dim * itemsize + 4 * 4 * tokens**2 <= BUDGET


def short(
  query: Float[Array, '*b n h d'],
  key: Float[Array, '*b n h d'],
  value: Float[Array, '*b n h d'],
  tokens: int | None = None,
  interpret: bool = False,
) -> Float[Array, '*b n h d']:
  """Computes softmax(query key^T / sqrt(d)) value, a sequence at a time.

  Args:
    query: [..., tokens, heads, dim]; key and value have the same shape.
    tokens: number of real keys; any after them are padding.
    interpret: runs without a TPU, exact but slow, for tests.
  """
  flat = [x.reshape(-1, x.shape[-3], x.shape[-2] * x.shape[-1]) for x in (query, key, value)]
  count = key.shape[-3] if tokens is None else tokens
  return _attention(*flat, query.shape[-2], count, interpret).reshape(query.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attention(
  q: jax.Array, k: jax.Array, v: jax.Array, heads: int, tokens: int, interpret: bool
) -> jax.Array:
  return _call(_forward, 1, (q, k, v), heads, tokens, interpret)[0]


def _keep(
  q: jax.Array, k: jax.Array, v: jax.Array, heads: int, tokens: int, interpret: bool
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  return _attention(q, k, v, heads, tokens, interpret), (q, k, v)


def _gradients(
  heads: int, tokens: int, interpret: bool, kept: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, ...]:
  return tuple(_call(_backward, 3, (*kept, g), heads, tokens, interpret))


_attention.defvjp(_keep, _gradients)


def _call(
  kernel: Callable[..., None],
  results: int,
  arrays: tuple[jax.Array, ...],
  heads: int,
  tokens: int,
  interpret: bool,
) -> Any:
  from jax.experimental import pallas as pl  # takes a second
  from jax.experimental.pallas import tpu

  sequences, length, width = arrays[0].shape
  block = pl.BlockSpec((1, length, width), lambda i: (i, 0, 0))
  products = 2 if results == 1 else 5
  cost = pl.CostEstimate(
    flops=2 * products * sequences * length**2 * width,
    transcendentals=sequences * heads * length**2,
    bytes_accessed=sum(x.nbytes for x in arrays) + results * arrays[0].nbytes,
  )
  return pl.pallas_call(
    partial(kernel, heads=heads, tokens=tokens),
    grid=(sequences,),
    in_specs=[block] * len(arrays),
    out_specs=[block] * results,
    out_shape=[jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)] * results,
    cost_estimate=cost,
    interpret=interpret,
    compiler_params=tpu.CompilerParams(dimension_semantics=('parallel',)),
  )(*arrays)


def _forward(q: Any, k: Any, v: Any, out: Any, *, heads: int, tokens: int) -> None:
  for at in _heads(q, heads):
    weights = _weights(q[0, :, at], k[0, :, at], tokens).astype(v.dtype)
    out[0, :, at] = _dot(weights, v[0, :, at], 1, 0).astype(out.dtype)


def _backward(
  q: Any, k: Any, v: Any, g: Any, dq: Any, dk: Any, dv: Any, *, heads: int, tokens: int
) -> None:
  for at in _heads(q, heads):
    query, key, value, given = q[0, :, at], k[0, :, at], v[0, :, at], g[0, :, at]
    weights = _weights(query, key, tokens)
    change = _dot(given, value, 1, 1)
    change = weights * (change - (weights * change).sum(1, keepdims=True))
    change = (change * query.shape[-1] ** -0.5).astype(query.dtype)
    dv[0, :, at] = _dot(weights.astype(given.dtype), given, 0, 0).astype(dv.dtype)
    dq[0, :, at] = _dot(change, key, 1, 0).astype(dq.dtype)
    dk[0, :, at] = _dot(change, query, 0, 0).astype(dk.dtype)


def _heads(q: Any, heads: int) -> list[slice]:
  dim = q.shape[-1] // heads
  return [slice(head * dim, (head + 1) * dim) for head in range(heads)]


def _weights(query: jax.Array, key: jax.Array, tokens: int) -> jax.Array:
  """Returns the softmax over the keys in float32, 0 at padding keys."""
  scores = _dot(query, key, 1, 1) * query.shape[-1] ** -0.5
  if tokens != scores.shape[1]:
    column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    scores = jnp.where(column < tokens, scores, -1e30)
  weights = jnp.exp(scores - scores.max(1, keepdims=True))
  return weights * (1.0 / weights.sum(1, keepdims=True))


def _dot(a: jax.Array, b: jax.Array, left: int, right: int) -> jax.Array:
  axes = (((left,), (right,)), ((), ()))
  return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)
