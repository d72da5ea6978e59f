# SPDX-License-Identifier: Apache-2.0
"""Positions without parameters: fixed sinusoids along a sequence, and rotary positions."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model

Angles = Float[Array, 'tokens 1 channels']
Rotation = tuple[Angles, Angles]  # cosine and sine per token


@functools.lru_cache(maxsize=8)
def sincos(tokens: int, width: int) -> Float[np.ndarray, 'tokens width']:
  """Returns VideoMAE's positions: sines in even channels, cosines in odd channels.

  Channel j of token n has the angle n / 10000^(2 * (j // 2) / width). Tokens are numbered over all
  frames, so positions depend on the clip size.
  """
  rates = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
  angles = np.arange(tokens)[:, None] * rates
  even = np.arange(width) % 2 == 0
  return np.where(even, np.sin(angles), np.cos(angles)).astype(np.float32)


def rotation(config: Model, grid: tuple[int, int, int], filled: int) -> Rotation:
  """Returns the rotary positions of V-JEPA 2 (github.com/facebookresearch/vjepa2).

  A head's channels are divided into three equal parts, which are rotated by a token's time, row and
  column; remaining channels are not rotated. Pairs consist of adjacent channels. V-JEPA 2 assigns
  angles as if pairs were made of halves: the first channel of pair i has angle 2 i, modulo the
  number of pairs, and the second has the next angle, so the channels of a pair have different
  angles. Its weights are trained in this way.

  Args:
    config: positions `rotary_tiled` (V-JEPA 2) or `rotary_interleaved` (2.1), and rotary_grid.
    grid: tokens along time, height and width.
    filled: length of the sequence; padding tokens after the grid are not rotated.
  """
  dim = config.width // config.heads
  part = 2 * (dim // 3 // 2)
  rates = 10000.0 ** (-np.arange(part // 2) / (part / 2))
  spread = np.tile(rates, 2) if config.positions == 'rotary_tiled' else np.repeat(rates, 2)
  axes = [np.arange(size, dtype=np.float64) for size in grid]
  if config.rotary_grid is not None:  # V-JEPA 2.1's interpolate_rope
    axes[1:] = [x * (config.rotary_grid - 1) / max(len(x) - 1, 1) for x in axes[1:]]
  places = jnp.meshgrid(*(jnp.asarray(x, jnp.float32) for x in axes), indexing='ij')
  angles = [place.reshape(-1, 1, 1) * jnp.asarray(spread, jnp.float32) for place in places]
  turned_by = jnp.concatenate(angles, axis=-1)
  missing = (filled - turned_by.shape[0], dim - 3 * part)
  turned_by = jnp.pad(turned_by, [(0, missing[0]), (0, 0), (0, missing[1])])
  return jnp.cos(turned_by), jnp.sin(turned_by)


def turned(x: Float[Array, '*b n h d'], turn: Rotation) -> Float[Array, '*b n h d']:
  """Returns queries or keys with each pair of channels (a, b) rotated towards (-b, a)."""
  cosine, sine = turn
  full = x.astype(jnp.float32)
  pairs = full.reshape(*x.shape[:-1], -1, 2)
  across = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
  return (full * cosine + across * sine).astype(x.dtype)
