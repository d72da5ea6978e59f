# SPDX-License-Identifier: Apache-2.0
"""Random erasing as in VideoMAE's fine-tuning: a box of noise at the same place in all frames.

VideoMAE draws the box as timm does and fills it, after normalization, with new N(0, 1) values in
each frame. Here, before normalization, this is noise with ImageNet's mean color and standard
deviations, clipped to 0..255.
"""

import dataclasses
import functools
import math
import statistics

import cv2
import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.augment import RandomErasing

TRIES = 100  # maximum number of boxes drawn until one fits, as in timm
MEAN = np.array([0.485, 0.456, 0.406]) * 255  # ImageNet's red, green and blue
DEVIATION = np.array([0.229, 0.224, 0.225]) * 255


@dataclasses.dataclass(frozen=True)
class Noise:
  """A box of noise; coordinates are in pixels of the clip."""

  top: int
  left: int
  height: int
  width: int
  seed: int  # seed of the noise

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns the clip with the box filled with noise in all frames."""
    shape = (len(video) * self.height, self.width, 3)
    noise = np.random.default_rng(self.seed).integers(0, 256, shape, np.uint8)
    result = video.copy()
    box = result[:, self.top : self.top + self.height, self.left : self.left + self.width]
    box[:] = cv2.LUT(noise, _normal()).reshape(box.shape)
    return result


def draw_noise(
  settings: RandomErasing, height: int, width: int, rng: np.random.Generator
) -> Noise | None:
  """Draws the box to erase in a clip, or None.

  Args:
    settings: probability and size.
    height, width: clip size in pixels.
    rng: random generator; the number of draws is the same for all clips.
  """
  low, high = settings.ratio
  apply, top, left = rng.random(3)
  areas = rng.uniform(*settings.area, TRIES) * height * width
  ratios = np.exp(rng.uniform(math.log(low), math.log(high), TRIES))
  seed = int(rng.integers(2**63))
  if apply >= settings.probability:
    return None
  for area, ratio in zip(areas, ratios, strict=True):
    box_h, box_w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if box_h < height and box_w < width:
      place = int(top * (height - box_h + 1)), int(left * (width - box_w + 1))
      return Noise(*place, box_h, box_w, seed)
  return None


@functools.cache
def _normal() -> UInt8[np.ndarray, '1 256 3']:
  """Returns a table from uniform bytes to normal values; uniform numbers are faster to draw."""
  normal = statistics.NormalDist()
  values = np.array([normal.inv_cdf((i + 0.5) / 256) for i in range(256)])
  colors = MEAN + DEVIATION * values[None, :, None]
  return np.clip(np.rint(colors), 0, 255).astype(np.uint8)
