# SPDX-License-Identifier: Apache-2.0
"""Where a view is cut out of the frames: random in training, fixed crops in evaluation.

Scaling a frame until it covers the view and then cropping is done the other way round: the box
that the view shows, in whole source pixels, is cut out first and only that is resized.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import UInt8

from vivit_jax.config import Clip, Data

cv2.setNumThreads(1)  # videos are read side by side; threads within one would only compete


@dataclasses.dataclass(frozen=True)
class RandomCrop:
  """One training view; the same for all frames of a clip, whatever their size."""

  height: int  # of the result, pixels
  width: int
  scale: float  # the frame is scaled to just cover (height, width) and then by this, at least 1
  top: float  # in [0, 1): where in the room that the crop has
  left: float
  flip: bool  # left and right

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h2 w2 3']:
    """Returns the crop, uint8 [height, width, 3], of an RGB frame [H, W, 3]."""
    box_h, box_w = _box(frame, self.height, self.width, self.scale)
    top = int(self.top * (frame.shape[0] - box_h + 1))
    left = int(self.left * (frame.shape[1] - box_w + 1))
    crop = _resize(frame[top : top + box_h, left : left + box_w], self.height, self.width)
    return np.ascontiguousarray(crop[:, ::-1]) if self.flip else crop


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

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns the crops, uint8 [count, height, width, 3], of an RGB frame [H, W, 3]."""
    h, w = frame.shape[:2]
    cover = max(self.height / h, self.width / w)
    scale = max(1.0, (self.short_side or 0) / min(h, w) / cover)
    box_h, box_w = _box(frame, self.height, self.width, scale)
    room_h, room_w = h - box_h, w - box_w
    tall = room_h * box_w > room_w * box_h  # compared with the box, which need not be square
    crops = []
    for k in range(self.count):
      share = k / (self.count - 1) if self.count > 1 else 0.5
      top = round((share if tall else 0.5) * room_h)
      left = round((0.5 if tall else share) * room_w)
      box = frame[top : top + box_h, left : left + box_w]
      crops.append(_resize(box, self.height, self.width))
    return np.stack(crops)


def _box(frame: np.ndarray, height: int, width: int, scale: float) -> tuple[int, int]:
  """Returns the size in source pixels that fills (height, width) after scaling."""
  h, w = frame.shape[:2]
  factor = scale * max(height / h, width / w)
  return min(h, max(1, round(height / factor))), min(w, max(1, round(width / factor)))


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  # Averaging over areas keeps fine patterns from flickering, at five times the cost of bilinear,
  # which sees every source pixel as long as there are not many more of them.
  how = cv2.INTER_AREA if image.shape[0] > 1.5 * height else cv2.INTER_LINEAR
  return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=how)
