# SPDX-License-Identifier: Apache-2.0
"""What a crop asks of a frame: boxes of shown pixels, resized; the frame need not exist whole.

A decoder that knows the boxes leaves everything outside of them unconverted.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

cv2.setNumThreads(1)  # videos are read side by side; threads within one would only compete


class Box(NamedTuple):
  """A part of a frame as it is shown, in whole pixels; at least one, all within the frame."""

  top: int
  left: int
  height: int
  width: int


@runtime_checkable
class Crops(Protocol):
  """Which boxes of every frame are wanted, at which size, and what becomes of them.

  Called with a frame, it does the same to it as a decoder that asks for the boxes.
  """

  @property
  def height(self) -> int:
    """Of each result, in pixels."""

  @property
  def width(self) -> int:
    """Of each result, in pixels."""

  def boxes(self, height: int, width: int) -> Sequence[Box]:
    """Returns the boxes wanted of a frame of this size."""

  def finish(self, crops: UInt8[np.ndarray, 's h w 3']) -> UInt8[np.ndarray, '...']:
    """Returns a frame's result from its boxes, already resized, in their order."""

  def __call__(self, frame: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, '...']:
    """Returns a whole frame's result; see `cut`."""


def cut(
  frame: UInt8[np.ndarray, 'h w 3'], boxes: Sequence[Box], height: int, width: int
) -> UInt8[np.ndarray, 's h2 w2 3']:
  """Returns boxes of a whole frame, each resized: uint8 [len(boxes), height, width, 3]."""
  return np.stack(
    [
      resize(frame[b.top : b.top + b.height, b.left : b.left + b.width], height, width)
      for b in boxes
    ]
  )


def resize(
  image: UInt8[np.ndarray, 'h w *c'], height: int, width: int
) -> UInt8[np.ndarray, 'h2 w2 *c']:
  """Returns an image at another size, each pixel a mean of all that it covers.

  Means of whole blocks come first where the image is at least twice as large: OpenCV takes a fifth
  of the time for them. At most block - 1 rows and columns, less than one of the result's, are left
  out for that, half on each side.
  """
  h, w = image.shape[:2]
  block_h, block_w = max(1, h // height), max(1, w // width)
  if block_h * block_w > 1:
    rows, columns = h // block_h, w // block_w
    top, left = h % block_h // 2, w % block_w // 2
    image = image[top : top + rows * block_h, left : left + columns * block_w]
    image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
  # Averaging over areas keeps fine patterns from flickering, at five times the cost of bilinear,
  # which sees every source pixel as long as there are not many more of them.
  many = image.shape[0] > 1.5 * height or image.shape[1] > 1.5 * width
  how = cv2.INTER_AREA if many else cv2.INTER_LINEAR
  return cv2.resize(image, (width, height), interpolation=how)
