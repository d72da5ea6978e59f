# SPDX-License-Identifier: Apache-2.0
"""The training augmentation: its parameters are drawn before a clip is decoded, then applied.

The crop is applied during decoding. The rest is applied to the cropped clip, in Scenic's order:
RandAugment, colors, erasing, then user functions. The random numbers of each part do not depend on
which other parts are enabled, so two runs that differ in one setting see the same crops.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.augment import Augment
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.color import ColorChange, draw_color, drop_color
from vivit_jax.data.augmentation.crop import RandomCrop, draw_crop
from vivit_jax.data.augmentation.custom import OwnAugmentation, draw_custom
from vivit_jax.data.augmentation.erase import Noise, draw_noise
from vivit_jax.data.augmentation.rand_augment import Operation, draw_operations


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """The augmentation parameters of one clip, shared by all its frames."""

  crop: RandomCrop  # applied by the decoder
  operations: tuple[Operation, ...]
  color: ColorChange | None
  gray: bool
  noise: Noise | None
  custom: tuple[OwnAugmentation, ...] = ()

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Applies everything but the crop to a cropped clip, uint8 [F, H, W, 3]."""
    for operation in self.operations:
      video = operation(video)
    if self.color is not None:
      video = self.color(video)
    if self.gray:
      video = drop_color(video)
    if self.noise is not None:
      video = self.noise(video)
    for augmentation in self.custom:
      video = augmentation(video)
    return video


def draw(
  clip: Clip, settings: Augment, rng: np.random.Generator, mirrors: bool = True
) -> Augmentation:
  """Draws the augmentation of a clip.

  Args:
    clip: clip size.
    settings: augmentation settings.
    rng: random generator of the clip.
    mirrors: whether the clip has a valid label when mirrored; see mirror.py.
  """
  crop = draw_crop(clip, settings.crop, mirrors and settings.flip != 'off', rng)
  layers, colors, erasing = rng.spawn(3)
  color, gray = draw_color(settings.color_jitter, colors)
  noise = draw_noise(settings.random_erasing, clip.height, clip.width, erasing)
  operations = draw_operations(settings.rand_augment, layers)
  return Augmentation(crop, operations, color, gray, noise, draw_custom(settings.custom, rng))
