# SPDX-License-Identifier: Apache-2.0
"""From pixels, 0 to 255, to the values that weights expect."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vivit_jax.config.augment import Triple


def as_values(
  video: UInt8[Array, 'b f h w 3'],
  low: Triple,
  high: Triple,
  channels: Literal['rgb', 'bgr'],
) -> Float[Array, 'b f h w 3']:
  """Returns RGB pixels as the weights expect them: float32, channels in their order.

  Args:
    video: 0 to 255.
    low, high: what 0 and 255 become, per channel in the order that the weights expect.
    channels: that order.
  """
  x = video[..., ::-1] if channels == 'bgr' else video
  bottom, top = jnp.array(low, jnp.float32), jnp.array(high, jnp.float32)
  return x.astype(jnp.float32) / 255.0 * (top - bottom) + bottom
