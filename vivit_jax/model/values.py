# SPDX-License-Identifier: Apache-2.0
"""Normalization of pixels from 0..255 to the model's input range."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vivit_jax.config.augment import Triple
from vivit_jax.config.clip import HALF, Channels, Clip


def values_of(video: Shaped[Array, 'b *rest'], clip: Clip) -> Float[Array, 'b *rest']:
  """Returns the values of the pixels of clips [B, F, H, W, 3], or of their patches [B, T, S, P]."""
  pixels = video if video.ndim == 5 else video.reshape(*video.shape[:3], -1, 3)
  return normalize_pixels(pixels, clip.mean, clip.std).reshape(video.shape)


def normalize_pixels(
  video: Shaped[Array, 'b f h w 3'],
  mean: Triple = HALF,
  std: Triple = HALF,
  channels: Channels = 'rgb',
) -> Float[Array, 'b f h w 3']:
  """Returns RGB pixels as float32 (pixel / 255 - mean) / std, in the weights' channel order.

  Args:
    video: values from 0 to 255; uint8, or float32 if clips were blended.
    mean, std: per channel, in the weights' channel order; the defaults give the range [-1, 1].
    channels: the weights' channel order.
  """
  x = video[..., ::-1] if channels == 'bgr' else video
  # One division and one sum; mean = std = 0.5 gives exactly pixel / 127.5 - 1.
  scale = jnp.array([255 * s for s in std], jnp.float32)
  zero = jnp.array([0.0 - m / s for m, s in zip(mean, std, strict=True)], jnp.float32)
  return x.astype(jnp.float32) / scale + zero
