# SPDX-License-Identifier: Apache-2.0
"""Where a view is cut out of the frames: random in training, fixed crops in evaluation.

Scaling a frame until it covers the view and then cropping is done the other way round: the box
that the view shows, in whole source pixels, is cut out first and only that is resized.
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
TRIES = 10  # boxes drawn for an inception crop until one fits, as in torchvision


@dataclasses.dataclass(frozen=True)
class Scaled:
  """A box of the size that the clip has once frames are scaled to a short side."""

  short_side: int  # pixels
  factor_h: float  # of the scaled frame's height
  factor_w: float

  def size(self, frame: tuple[int, int], clip: Shape) -> tuple[int, int]:
    """Returns height and width in pixels of a frame of this height and width.

    A frame that would be smaller than the clip is scaled up until it covers it; its shape is then
    kept if both factors are the same.
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
  """A box of some area and shape: the first of those drawn that fits."""

  # (share of the frame's area, width / height as a multiple of the clip's)
  tries: tuple[tuple[float, float], ...]

  def size(self, frame: tuple[int, int], clip: Shape) -> tuple[int, int]:
    """Returns height and width in pixels; the largest of the clip's shape where none fits."""
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
  """One training view; the same for all frames of a clip, whatever their size."""

  height: int  # of the result, pixels
  width: int
  region: Scaled | Inception
  top: float  # in [0, 1): where in the room that the crop has
  left: float
  flip: bool  # left and right
  whole_frame: bool = False  # cut out of frames that have the clip's shape, whatever they had

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns the one box of a frame of this size."""
    shape: Shape = self.height, self.width
    if self.whole_frame:  # a box of the frame's shape, as large as one of the clip's would be
      scale = min(shape) / min(height, width)
      shape = height * scale, width * scale
    box_h, box_w = self.region.size((height, width), shape)
    top, left = int(self.top * (height - box_h + 1)), int(self.left * (width - box_w + 1))
    return [Box(top, left, box_h, box_w)]

  def finish(self, crops: UInt8[np.ndarray, '1 h w 3']) -> UInt8[np.ndarray, 'h w 3']:
    """Returns the crop, mirrored if it is to be."""
    return cv2.flip(crops[0], 1) if self.flip else crops[0]

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h2 w2 3']:
    """Returns the crop, uint8 [height, width, 3], of an RGB frame [H, W, 3]."""
    return self.finish(cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width))


def draw_crop(
  clip: Clip, settings: TrainingCrop, mirrors: bool, rng: np.random.Generator
) -> RandomCrop:
  """Draws size, place and flip of a training view.

  Args:
    clip: its height and width.
    settings: the kind of crop; with `scale_jitter` and `stretch`, height and width are scaled by
      factors of their own, as DMVR does it for Scenic.
    mirrors: whether half of all clips are mirrored.
    rng: draws as many numbers for one clip as for any other.
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
  """The spatial views of evaluation: crops along the longer side, in the middle of the shorter."""

  height: int  # of each result, pixels
  width: int
  count: int  # 1 = center; 3 = left, center, right | top, middle, bottom
  # Pixels that the frame's shorter side is scaled to before the crop; None, or too few for it: the
  # frame just covers the crop, which then shows the whole of one side.
  short_side: int | None = None
  whole_frame: bool = False  # all of the frame, whatever its shape

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns `count` boxes of a frame of this size."""
    if self.whole_frame:
      return [Box(0, 0, height, width)] * self.count
    cover = max(self.height / height, self.width / width)
    scale = max(cover, (self.short_side or 0) / min(height, width))
    box_h = min(height, max(1, round(self.height / scale)))
    box_w = min(width, max(1, round(self.width / scale)))
    room_h, room_w = height - box_h, width - box_w
    # Compared with the crop, which need not be square, and in whole pixels of the scaled frame:
    # one that is square there has its crops next to each other, whatever its source was.
    scaled_h, scaled_w = (int(side * scale + 1e-6) for side in (height, width))
    tall = (scaled_h - self.height) * self.width > (scaled_w - self.width) * self.height
    boxes = []
    for k in range(self.count):
      share = k / (self.count - 1) if self.count > 1 else 0.5
      # Half a pixel goes down and to the right, as in Scenic.
      top = math.floor((share if tall else 0.5) * room_h + 0.5)
      left = math.floor((0.5 if tall else share) * room_w + 0.5)
      boxes.append(Box(top, left, box_h, box_w))
    return boxes

  def finish(self, crops: UInt8[np.ndarray, 's h w 3']) -> UInt8[np.ndarray, 's h w 3']:
    """Returns the crops as they are."""
    return crops

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns the crops, uint8 [count, height, width, 3], of an RGB frame [H, W, 3]."""
    return cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width)
