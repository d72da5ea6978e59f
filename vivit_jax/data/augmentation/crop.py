# SPDX-License-Identifier: Apache-2.0
"""Crops: random boxes in training, fixed boxes in evaluation.

Instead of resizing a frame and then cropping, the corresponding box of whole source pixels is cut
out first and only this box is resized.
"""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.augment import TrainingCrop
from vivit_jax.config.schema import Clip
from vivit_jax.data.video.frames import Box, cut

Shape = tuple[int, int] | tuple[float, float]  # height and width
TRIES = 10  # maximum number of boxes drawn for an inception crop, as in torchvision


@dataclasses.dataclass(frozen=True)
class Scaled:
  """The size of a crop after frames are resized to a short side, in source pixels."""

  short_side: int  # pixels
  factor_h: float  # extra scale factor of the height
  factor_w: float

  def size(self, frame: tuple[int, int], clip: Shape) -> tuple[int, int]:
    """Returns the height and width of the box, in pixels, in a frame of this size.

    A frame that would be smaller than the clip is scaled up to cover it; its aspect ratio is kept
    if both factors are equal.
    """
    scale = self.short_side / min(frame)
    cover = [c / f for c, f in zip(clip, frame, strict=True)]
    if self.factor_h == self.factor_w:
      cover = [max(cover)] * 2
    height, width = (
      min(f, max(1, round(c / max(scale * factor, least))))
      for f, c, factor, least in zip(
        frame, clip, (self.factor_h, self.factor_w), cover, strict=True
      )
    )
    return height, width


@dataclasses.dataclass(frozen=True)
class Inception:
  """A box of random area and aspect ratio: the first drawn one that fits."""

  # (fraction of the frame's area, aspect ratio as a multiple of the clip's)
  tries: tuple[tuple[float, float], ...]

  def size(self, frame: tuple[int, int], clip: Shape) -> tuple[int, int]:
    """Returns height and width in pixels; if none fits, the largest box with the clip's ratio."""
    shape = clip[1] / clip[0]
    for share, ratio in self.tries:
      area = share * frame[0] * frame[1]
      height = round(math.sqrt(area / (ratio * shape)))
      width = round(math.sqrt(area * ratio * shape))
      if 0 < height <= frame[0] and 0 < width <= frame[1]:
        return height, width
    return Scaled(1, 0.0, 0.0).size(frame, clip)


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """The crop of one training clip; the same for all its frames, of any size."""

  height: int  # of the result, in pixels
  width: int
  region: Scaled | Inception
  top: float  # position within the available range, in [0, 1)
  left: float
  flip: bool  # whether to mirror left and right
  whole_frame: bool = False  # whether frames are first resized to the clip's aspect ratio

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns the single box for a frame of this size."""
    shape: Shape = self.height, self.width
    if self.whole_frame:  # the box has the frame's aspect ratio
      scale = min(shape) / min(height, width)
      shape = height * scale, width * scale
    box_h, box_w = self.region.size((height, width), shape)
    top, left = int(self.top * (height - box_h + 1)), int(self.left * (width - box_w + 1))
    return [Box(top, left, box_h, box_w)]

  def finish(self, crops: UInt8[np.ndarray, '1 h w 3']) -> UInt8[np.ndarray, 'h w 3']:
    """Returns the crop, mirrored if `flip`."""
    return cv2.flip(crops[0], 1) if self.flip else crops[0]

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h2 w2 3']:
    """Returns the crop, uint8 [height, width, 3], of an RGB frame [H, W, 3]."""
    return self.finish(cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width))


def draw_crop(
  clip: Clip, settings: TrainingCrop, mirrors: bool, rng: np.random.Generator
) -> RandomCrop:
  """Draws size, position and flip of a training crop.

  Args:
    clip: its height and width are used.
    settings: the kind of crop; with `scale_jitter` and `stretch`, height and width have separate
      scale factors, as in DMVR for Scenic.
    mirrors: whether clips are mirrored with probability 0.5.
    rng: random generator; the number of draws is the same for all clips.
  """
  factor = rng.uniform(*settings.scale)
  top, left, mirror = rng.random(3)
  if settings.kind == 'inception':
    low, high = np.log(settings.ratio)
    shares = rng.uniform(*settings.area, TRIES)
    ratios = np.exp(rng.uniform(low, high, TRIES))
    pairs = zip(shares.tolist(), ratios.tolist(), strict=True)
    region: Scaled | Inception = Inception(tuple(pairs))
  else:
    short_side = settings.short_side or clip.usual_short_side
    other = rng.uniform(*settings.scale) if settings.stretch else factor
    region = Scaled(short_side, factor, other)
  return RandomCrop(
    clip.height, clip.width, region, float(top), float(left), bool(mirrors and mirror < 0.5),
    whole_frame=clip.resize == 'whole_frame',
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SpatialCrops:
  """The spatial views of evaluation: crops along the longer side, centered on the shorter."""

  height: int  # of each result, in pixels
  width: int
  count: int  # 1 = center; 3 = left, center, right | top, middle, bottom
  # The shorter side of the resized frame, in pixels, from which crops are taken. If it is None or
  # too small, frames are resized to just cover the crop.
  short_side: int | None = None
  whole_frame: bool = False  # whether the view is the whole frame, with any aspect ratio

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns `count` boxes for a frame of this size."""
    if self.whole_frame:
      return [Box(0, 0, height, width)] * self.count
    cover = max(self.height / height, self.width / width)
    scale = max(cover, (self.short_side or 0) / min(height, width))
    box_h = min(height, max(1, round(self.height / scale)))
    box_w = min(width, max(1, round(self.width / scale)))
    room_h, room_w = height - box_h, width - box_w
    # The longer side is determined relative to the crop, which may be non-square, in whole pixels
    # of the resized frame; if that is square, crops are side by side.
    scaled_h, scaled_w = (int(side * scale + 1e-6) for side in (height, width))
    tall = (scaled_h - self.height) * self.width > (scaled_w - self.width) * self.height
    boxes = []
    for k in range(self.count):
      share = k / (self.count - 1) if self.count > 1 else 0.5
      # Half pixels are rounded down and to the right, as in Scenic.
      top = math.floor((share if tall else 0.5) * room_h + 0.5)
      left = math.floor((0.5 if tall else share) * room_w + 0.5)
      boxes.append(Box(top, left, box_h, box_w))
    return boxes

  def finish(self, crops: UInt8[np.ndarray, 's h w 3']) -> UInt8[np.ndarray, 's h w 3']:
    """Returns the crops unchanged."""
    return crops

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns the crops, uint8 [count, height, width, 3], of an RGB frame [H, W, 3]."""
    return cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width)
