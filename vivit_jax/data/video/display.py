# SPDX-License-Identifier: Apache-2.0
"""From stored to shown: square pixels, and the way up that the file asks players to turn frames.

Phones store what the sensor saw and write down how they were held; DVDs and old camcorders store
pixels that are not square. Frames are given as a player shows them, turned by the nearest number of
quarters, so that up is up and circles are round, whatever they were recorded with.
"""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from vivit_jax.data.video.boxes import Crops
from vivit_jax.data.video.planes import PlaneCutter, can_cut

# Encoders round the ratio to what their fields hold; below 1 % nobody sees it, and a resize costs.
SQUARE = (Fraction(99, 100), Fraction(101, 100))
# Beyond this the field is garbage: the flattest format in use, anamorphic film, has 2.
BELIEVABLE = (Fraction(1, 4), Fraction(4))


class Screen:
  """Shows decoded frames, whole or as crops; keeps what they share."""

  def __init__(self) -> None:
    # One for all frames: setting a conversion up costs more than converting a small frame.
    self._reformatter = VideoReformatter()
    self._cutter = PlaneCutter()

  def whole(self, frame: av.VideoFrame, pixel: Fraction | None) -> UInt8[np.ndarray, 'h w 3']:
    """Returns a frame as a player shows it, RGB; `pixel` as in `square_size`."""
    width, height = square_size(frame.width, frame.height, pixel)
    # Starting threads takes longer than converting a frame, and the default is one per processor.
    rgb = self._reformatter.reformat(frame, width, height, 'rgb24', threads=1)
    return upright(rgb.to_ndarray(), frame.side_data)

  def crops(
    self, frame: av.VideoFrame, pixel: Fraction | None, crops: Crops
  ) -> UInt8[np.ndarray, '...'] | None:
    """Returns what `crops` makes of a frame, or None where that takes the whole frame."""
    if square_size(frame.width, frame.height, pixel) != (frame.width, frame.height):
      return None
    boxes = crops.boxes(frame.height, frame.width)
    if 'DISPLAYMATRIX' in frame.side_data or not can_cut(frame, boxes, crops.height, crops.width):
      return None
    return crops.finish(self._cutter.cut(frame, boxes, crops.height, crops.width))


def square_size(width: int, height: int, pixel: Fraction | None) -> tuple[int, int]:
  """Returns the (width, height) that shows a stored frame with square pixels.

  The side with the denser pixels shrinks: the other direction would make up pixels, and let a
  field of the file decide how much memory a frame takes.

  Args:
    width, height: as stored.
    pixel: width of a pixel divided by its height; None = not said, so square.
  """
  if pixel is None or not BELIEVABLE[0] <= pixel <= BELIEVABLE[1] or SQUARE[0] < pixel < SQUARE[1]:
    return width, height
  if pixel > 1:
    return width, max(1, round(height / pixel))
  return max(1, round(width * pixel)), height


def upright(image: UInt8[np.ndarray, 'h w 3'], side_data: Any) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Returns a view of a stored frame, turned and mirrored as its display matrix says.

  The matrix maps a pixel (x, y), y downwards, to (a x + c y, b x + d y): a and d alone are a half
  turn or a mirror, b and c alone a quarter turn. Any other angle counts as the nearest of these.

  Args:
    image: as stored.
    side_data: of the decoded frame; without a display matrix it stays as it is.
  """
  try:
    matrix = side_data['DISPLAYMATRIX']
  except KeyError:
    return image
  # Fixed point numbers in rows of three, the third for a projection that no player applies.
  a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
  if abs(b) + abs(c) > abs(a) + abs(d):
    image = image.transpose(1, 0, 2)
    a, d = c, b
  return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
