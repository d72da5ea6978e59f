# SPDX-License-Identifier: Apache-2.0
"""Where a view is cut out of the frames: random in training, fixed crops in evaluation.

Scaling a frame until it covers the view and then cropping is done the other way round: the box
that the view shows, in whole source pixels, is cut out first and only that is resized.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config import Clip, Data
from vivit_jax.data.boxes import Box, cut


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """One training view; the same for all frames of a clip, whatever their size."""

  height: int  # of the result, pixels
  width: int
  scale: float  # the frame is scaled to just cover (height, width) and then by this, at least 1
  top: float  # in [0, 1): where in the room that the crop has
  left: float
  flip: bool  # left and right

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns the one box of a frame of this size."""
    box_h, box_w = _size(height, width, self.height, self.width, self.scale)
    top, left = int(self.top * (height - box_h + 1)), int(self.left * (width - box_w + 1))
    return [Box(top, left, box_h, box_w)]

  def finish(self, crops: UInt8[np.ndarray, '1 h w 3']) -> UInt8[np.ndarray, 'h w 3']:
    """Returns the crop, mirrored if it is to be."""
    return np.ascontiguousarray(crops[0, :, ::-1]) if self.flip else crops[0]

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h2 w2 3']:
    """Returns the crop, uint8 [height, width, 3], of an RGB frame [H, W, 3]."""
    return self.finish(cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width))


def draw_crop(clip: Clip, data: Data, rng: np.random.Generator) -> RandomCrop:
  """Draws scale, place and flip of a training view.

  Args:
    clip: its height and width.
    data: `scale_jitter` gives the range of the uniform scale, where less than 1 counts as 1
      because the frame must cover the crop; `flip` 'paper' mirrors half of all clips.
    rng: draws exactly four numbers, whatever the settings.
  """
  scale = rng.uniform(*data.scale_jitter)
  top, left, mirror = rng.random(3)
  flip = data.flip == 'paper' and mirror < 0.5
  return RandomCrop(clip.height, clip.width, max(1.0, scale), float(top), float(left), bool(flip))


@dataclasses.dataclass(frozen=True)
class SpatialCrops:
  """The spatial views of evaluation: crops along the longer side, in the middle of the shorter."""

  height: int  # of each result, pixels
  width: int
  count: int  # 1 = centre; 3 = left, centre, right | top, middle, bottom
  # Pixels that the frame's shorter side is scaled to before the crop; None, or too few for it: the
  # frame just covers the crop, which then shows the whole of one side.
  short_side: int | None = None

  def boxes(self, height: int, width: int) -> list[Box]:
    """Returns `count` boxes of a frame of this size."""
    cover = max(self.height / height, self.width / width)
    scale = max(1.0, (self.short_side or 0) / min(height, width) / cover)
    box_h, box_w = _size(height, width, self.height, self.width, scale)
    room_h, room_w = height - box_h, width - box_w
    tall = room_h * box_w > room_w * box_h  # compared with the box, which need not be square
    boxes = []
    for k in range(self.count):
      share = k / (self.count - 1) if self.count > 1 else 0.5
      top = round((share if tall else 0.5) * room_h)
      left = round((0.5 if tall else share) * room_w)
      boxes.append(Box(top, left, box_h, box_w))
    return boxes

  def finish(self, crops: UInt8[np.ndarray, 's h w 3']) -> UInt8[np.ndarray, 's h w 3']:
    """Returns the crops as they are."""
    return crops

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns the crops, uint8 [count, height, width, 3], of an RGB frame [H, W, 3]."""
    return cut(frame, self.boxes(*frame.shape[:2]), self.height, self.width)


def _size(h: int, w: int, height: int, width: int, scale: float) -> tuple[int, int]:
  """Returns the size in pixels of a frame [h, w] that fills (height, width) after scaling."""
  factor = scale * max(height / h, width / w)
  return min(h, max(1, round(height / factor))), min(w, max(1, round(width / factor)))
