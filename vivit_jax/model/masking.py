# SPDX-License-Identifier: Apache-2.0
"""Tube masks of masked pretraining: which places of a clip are hidden, and tokens by their place.

A tube is one place of the patch grid in all tubelets of a clip (VideoMAE, arXiv 2203.12602). Hiding
whole tubes keeps the tokens on a grid [B, T, K, D], so that every attention works on what is left.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from vivit_jax.config.pretraining import visible_places
from vivit_jax.config.schema import Masked
from vivit_jax.model.partitioning import compiled_for

Places = Int[Array, 'b s']  # a permutation of the places of each clip; the visible ones come first


def draw_places(keys: Key[Array, ' b'], places: int) -> Int[Array, 'b s']:
  """Returns a random permutation of the places for each key [B]."""
  draw = functools.partial(jax.random.uniform, shape=(places,))
  return jnp.argsort(jax.vmap(draw)(keys), axis=-1)


def split_places(masked: Masked, places: Places) -> tuple[Int[Array, 'b k'], Int[Array, 'b m']]:
  """Returns the visible and the hidden places of each clip, both ascending."""
  visible = visible_places(masked, places.shape[1])
  return jnp.sort(places[:, :visible], axis=-1), jnp.sort(places[:, visible:], axis=-1)


def select(x: Shaped[Array, '#b t s d'], index: Int[Array, 'b m']) -> Shaped[Array, 'b t m d']:
  """Returns the tokens or patches at some places of each clip.

  Args:
    x: on the whole grid; one for all clips, or one for each.
    index: of the places.
  """
  alone = x.shape[0] == 1  # one grid for all clips: positions
  if not (alone or _as_products()):
    return jax.vmap(functools.partial(jnp.take, axis=1, mode='clip'))(x, index)
  # The gradient of a gather is a scatter, slow on TPUs, and for positions everywhere. A product
  # with zeros and ones is exact, and pixels are exact in bfloat16.
  kind = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.bfloat16
  chosen = jax.nn.one_hot(index, x.shape[2], dtype=kind)
  pattern = 'bms,tsd->btmd' if alone else 'bms,btsd->btmd'
  grid = x.astype(kind)
  result = jnp.einsum(pattern, chosen, grid[0] if alone else grid, precision='highest')
  return result.astype(x.dtype)


def spread(
  x: Float[Array, 'b t k d'],
  places: Places,
  filling: Float[Array, ' d'],
) -> Float[Array, 'b t s d']:
  """Returns tokens at their places of the whole grid, and one vector at all others.

  Args:
    x: the visible tokens, by ascending place.
    places: see Places; the first K are visible.
    filling: for the hidden ones.
  """
  visible = jnp.sort(places[:, : x.shape[2]], axis=-1)
  chosen = jax.nn.one_hot(visible, places.shape[1], dtype=x.dtype)
  hidden = 1 - chosen.sum(axis=1)
  grid = jnp.einsum('bks,btkd->btsd', chosen, x, precision='highest')
  return grid + hidden[:, None, :, None] * filling.astype(x.dtype)


def _as_products() -> bool:
  return compiled_for().startswith('TPU')
