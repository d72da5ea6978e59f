# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of arrays, independent of sharding: shape, type and a hash of the bits.

They are needed because Orbax restores an array with a flipped bit or a wrong type without an error.
"""

from typing import Any

import jax
import jax.numpy as jnp

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16}  # by item size; larger items are read as several uint32


def describe(tree: Any) -> dict[str, tuple[str, int]]:
  """Returns the type and shape, and the fingerprint, of every array in a tree, by name."""
  # One at a time: concurrent reductions over several hosts can deadlock.
  return {name: (kind(leaf), int(fingerprint(leaf))) for name, leaf in named_leaves(tree).items()}


def kinds(tree: Any) -> dict[str, str]:
  """Returns the type and shape of every leaf in a tree, by name, e.g. `float32[4, 3]`."""
  return {name: kind(leaf) for name, leaf in named_leaves(tree).items()}


def named_leaves(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a tree by path a/b/c, for all node types."""
  return {
    '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def kind(leaf: Any) -> str:
  """Returns the type and shape of an array, e.g. `float32[4, 3]`."""
  return f'{leaf.dtype}{list(leaf.shape)}'


@jax.jit
def fingerprint(array: Any) -> jax.Array:
  """Returns a 32-bit hash of the bits of an array and their positions.

  Each element is mixed with its position by a bijection (MurmurHash3's finalizer, public domain, by
  Austin Appleby), and the results are summed modulo 2^32. A change of one element is always
  detected; a change of several is missed with probability 2^-32. The sum does not depend on the
  order of the elements, and therefore not on mesh or sharding.
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
  """Returns the index of every element in the global array, modulo 2^32, without communication."""
  position, stride = jnp.zeros(shape, jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    position += place * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return position
