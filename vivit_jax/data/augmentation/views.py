# SPDX-License-Identifier: Apache-2.0
"""Spatial test views by the clip settings: boxes of source pixels, or crops of a resized frame.

Other libraries resize the whole frame with PIL or torchvision (antialiased) and then crop whole
pixels. `ResizedViews` reproduces this up to rounding. A box of whole source pixels may be shifted
by half a pixel instead.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vivit_jax.config.clip import Clip, Interpolation
from vivit_jax.data.augmentation.crop import SpatialCrops

FILTERS = {
  'bilinear': Image.Resampling.BILINEAR,
  'bicubic': Image.Resampling.BICUBIC,
  'lanczos': Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True)
class ResizedViews:
  """Crops along the longer side of a resized frame, centered on the shorter side."""

  height: int  # of each result, in pixels
  width: int
  count: int  # 1 = center; 3 = left, center, right | top, middle, bottom
  short_side: int | None  # of the resized frame; None = resize to height x width
  interpolation: Interpolation

  def size(self, height: int, width: int) -> tuple[int, int]:
    """Returns the height and width to which a frame of this size is resized.

    The longer side is rounded down, as in torchvision. A frame that would be smaller than the crop
    is scaled up to cover it.
    """
    if self.short_side is None:
      return self.height, self.width
    short = min(height, width)
    scaled = [self.short_side * side // short for side in (height, width)]
    if scaled[0] >= self.height and scaled[1] >= self.width:
      return scaled[0], scaled[1]
    if self.height * width >= self.width * height:
      return self.height, max(self.width, self.height * width // height)
    return max(self.height, self.width * height // width), self.width

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns the crops, uint8 [count, height, width, 3], of an RGB frame [H, W, 3]."""
    height, width = self.size(*frame.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(frame))
    image = image.resize((width, height), FILTERS[self.interpolation])
    pixels = np.asarray(image)
    room_h, room_w = height - self.height, width - self.width
    tall = room_h * self.width > room_w * self.height
    crops = []
    for k in range(self.count):
      share = k / (self.count - 1) if self.count > 1 else 0.5
      # Rounded down, as in transformers and VideoMAE.
      top = int((share if tall else 0.5) * room_h)
      left = int((0.5 if tall else share) * room_w)
      crops.append(pixels[top : top + self.height, left : left + self.width])
    return np.stack(crops)


Views = SpatialCrops | ResizedViews


def views_of(clip: Clip, count: int, short_side: int) -> Views:
  """Returns the spatial views of a clip.

  Args:
    clip: size, resize rule and interpolation.
    count: number of views.
    short_side: shorter side of resized frames in pixels, if the rule is `short_side`.
  """
  whole = clip.resize == 'whole_frame'
  if clip.interpolation == 'area':
    return SpatialCrops(clip.height, clip.width, count, short_side, whole)
  short = None if whole else short_side
  return ResizedViews(clip.height, clip.width, count, short, clip.interpolation)
