# SPDX-License-Identifier: Apache-2.0
"""Video to token grid: uniform frame sampling and tubelet embedding (paper section 3.2)."""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vivit_jax.config.schema import Model
from vivit_jax.model.masking import select
from vivit_jax.model.product import product


def sampled_frame_indices(frames: int, sampled: int) -> list[int]:
  """Returns the frame indices of uniform frame sampling, by Scenic's rule.

  The indices are round(i * frames / (sampled + 1)) for i = 1..sampled, or all indices if `sampled`
  equals `frames`.
  """
  if sampled == frames:
    return list(range(frames))
  return [round(i * frames / (sampled + 1)) for i in range(1, sampled + 1)]


def tubelet_initializer(kind: str) -> nn.initializers.Initializer:
  """Returns an initializer for kernels [t, h, w, c, D].

  Args:
    kind: `central_frame` has a random 2D filter at time t // 2 and zeros elsewhere (equation 9);
      `inflation` repeats that filter over time, divided by t (equation 8); `random` initializes
      the whole kernel.
  """
  image_kernel = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
  random = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3), out_axis=4)

  def initialize(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    if kind == 'random':
      return random(key, shape, dtype)
    kernel = image_kernel(key, shape[1:], dtype)
    if kind == 'inflation':
      return jnp.broadcast_to(kernel / shape[0], shape)
    return jnp.zeros(shape, dtype).at[shape[0] // 2].set(kernel)

  return initialize


def cut(video: Any, patch: tuple[int, int, int]) -> Any:
  """Returns the tubelets [B, T, S, t*h*w*c] of a video [B, F, H, W, c]; NumPy or JAX arrays.

  Rows of a patch are merged with their channels first, which wastes fewer TPU lanes.
  """
  t, h, w = patch
  rows = einops.rearrange(video, 'b f h (W w) c -> b f h W (w c)', w=w)
  return einops.rearrange(rows, 'b (T t) (H h) W k -> b T (H W) (t h k)', t=t, h=h)


def patches_of(config: Model, video: Any) -> Any:
  """Returns the patches [B, T, S, t*h*w*c] of a video, or what `cut` has made of it already."""
  if video.ndim == 4:
    return video
  if config.sampled_frames is not None:
    video = video[:, jnp.array(sampled_frame_indices(video.shape[1], config.sampled_frames))]
  return cut(video, config.patch)


def uncut(patches: Any, patch: tuple[int, int, int], grid: tuple[int, int]) -> Any:
  """Returns the video [B, F, H, W, c] of which `cut` makes the tubelets [B, T, S, t*h*w*c].

  Args:
    patches: NumPy or JAX array.
    patch: t, h and w.
    grid: of the places of a frame, rows and columns.
  """
  t, h, w = patch
  return einops.rearrange(
    patches,
    'b T (H W) (t h w c) -> b (T t) (H h) (W w) c',
    t=t, h=h, w=w, H=grid[0], W=grid[1],
  )  # fmt: skip


def cut_by_host(config: Model, device: str) -> bool:
  """Returns whether the host should cut training videos into tubelets for this device kind.

  Compiled for a TPU v5e, the tokenizer takes 13.1 ms for 16 clips with the transpose, mostly in a
  copy that pads lanes, and 2.8 ms without. On GPUs the transpose is one short kernel.
  """
  places = config.positions.startswith('rotary')  # these need the rows and columns of patches
  return device.startswith('TPU') and config.sampled_frames is None and not places


class Tokenizer(nn.Module):
  """Cuts a video into t x h x w tubelets and projects each linearly to a token.

  Uniform frame sampling is the case t = 1 on a subset of the frames.
  """

  config: Model

  @nn.compact
  def __call__(
    self, video: Float[Array, 'b *rest'], places: Int[Array, 'b k'] | None = None
  ) -> Float[Array, 'b t s d']:
    """Returns the token grid; spatial tokens are ordered row by row.

    Args:
      video: pixel values in [-1, 1], [B, F, H, W, 3], or the result of `cut`.
      places: of each clip in space that become tokens; all by default.
    """
    config = self.config
    patches = patches_of(config, video)
    t, h, w = config.patch
    channels = patches.shape[-1] // (t * h * w)
    shape = (t, h, w, channels, config.width)
    kernel = self.param('kernel', tubelet_initializer(config.tubelet_init), shape)
    bias = self.param('bias', nn.initializers.zeros, (config.width,))
    if places is not None:
      patches = select(patches, places)
    dtype = jnp.dtype(config.dtype)
    kernel = kernel.reshape(-1, config.width).astype(dtype)
    # Faster than a 3D convolution, whose weight gradient costs 1.4x and input gradient 6x.
    return product(patches.astype(dtype), kernel, config.gradient_dtype) + bias.astype(dtype)
