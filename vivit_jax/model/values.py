# SPDX-License-Identifier: Apache-2.0
"""From pixels, 0 to 255, to the values that a model sees."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from vivit_jax.config.augment import Triple


def normalize_pixels(
  video: Shaped[Array, 'b f h w 3'],
  low: Triple = (-1.0, -1.0, -1.0),
  high: Triple = (1.0, 1.0, 1.0),
  channels: Literal['rgb', 'bgr'] = 'rgb',
) -> Float[Array, 'b f h w 3']:
  """Returns RGB pixels as float32 in the value range and channel order of the weights.

  Args:
    video: 0 to 255; uint8, or float32 where clips were blended.
    low, high: values of a pixel of 0 and of 255, per channel in the order of the weights.
    channels: that order.
  """
  x = video[..., ::-1] if channels == 'bgr' else video
  bottom, top = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)
  return x.astype(jnp.float32) / (255.0 / (top - bottom)) + bottom
