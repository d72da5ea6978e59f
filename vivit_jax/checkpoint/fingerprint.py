# SPDX-License-Identifier: Apache-2.0
"""What tells one array from another whatever devices hold it: shape, type and a hash of its bits.

Orbax restores an array of which a bit has flipped, or one of another type, without a word.
"""

from typing import Any

import jax
import jax.numpy as jnp

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}  # by bytes; others are read as several of 32 bits


def describe(tree: Any) -> dict[str, tuple[str, int]]:
  """Returns type with shape, and fingerprint, of each array of a tree, by its name."""
  # One after the other: sums over several hosts that are under way at once can block each other.
  return {name: (kind(leaf), int(fingerprint(leaf))) for name, leaf in named_leaves(tree).items()}


def kinds(tree: Any) -> dict[str, str]:
  """Returns type and shape of each array, or shape, of a tree, as in `float32[4, 3]`."""
  return {name: kind(leaf) for name, leaf in named_leaves(tree).items()}


def named_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by a/b/c, the same for all kinds of entries."""
  return {
    '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def kind(leaf: Any) -> str:
  """Returns type and shape of one array."""
  return f'{leaf.dtype}{list(leaf.shape)}'


@jax.jit
def fingerprint(array: Any) -> jax.Array:
  """Returns a hash of the bits of an array and of where they stand, in 32 bits.

  Each element is mixed with its position by a bijection (MurmurHash3's finalizer, public domain, by
  Austin Appleby), so that a change of one element always shows, and of several but once in 2^32
  times. The sum, modulo 2^32, is the same in any order, thus on any mesh and any sharding.
  """
  if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
    array = jax.random.key_data(array)
  if array.dtype == jnp.bool_:
    array = array.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(array, UNSIGNED.get(array.dtype.itemsize, jnp.uint32))
  mixed = bits.astype(jnp.uint32) ^ (_positions(bits.shape) * jnp.uint32(0x9E3779B1))
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
  return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
  """Returns each element's place in the whole array, modulo 2^32, without moving it."""
  position, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += place * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return position
