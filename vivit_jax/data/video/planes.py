# SPDX-License-Identifier: Apache-2.0
"""Boxes of a decoded frame, resized as brightness and colour planes, and only then made RGB.

Most of a frame lies outside of the crop, planes of 4:2:0 have half the samples of RGB, and a
result has fewer pixels than what it shows: this costs a third of converting, cutting and resizing.
Resizing and the conversion are both linear, so their order changes roundings alone.
"""

from collections.abc import Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from vivit_jax.data.video import boxes as whole
from vivit_jax.data.video.boxes import Box

FORMATS = ('yuv420p', 'yuvj420p')  # 8 bits; the colour planes have half the height and width
STEPS = (1, 2, 2)  # pixels per sample of each plane, either way
LEAST = 32  # pixels of a box's side; below, a colour sample covers too much of the result


class PlaneCutter:
  """Cuts boxes out of frames; keeps what successive frames share."""

  def __init__(self) -> None:
    self._reformatter = VideoReformatter()  # setting one up costs more than a conversion
    self._small: av.VideoFrame | None = None
    self._targets: list[UInt8[np.ndarray, 'h w']] = []

  def cut(
    self, frame: av.VideoFrame, boxes: Sequence[Box], height: int, width: int
  ) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns boxes of a frame as RGB: uint8 [len(boxes), height, width, 3].

    Args:
      frame: for which `can_cut` holds.
      boxes: in pixels as stored.
      height, width: of the results.
    """
    sources = _planes(frame)
    small = self._target(frame, height, width)
    results = []
    for box in boxes:
      for source, target, step in zip(sources, self._targets, STEPS, strict=True):
        _resize(source, box, step, target)
      # Starting threads takes longer than converting, and the default is one per processor.
      rgb = self._reformatter.reformat(small, width, height, 'rgb24', threads=1)
      # Memory of its own that nobody else writes to: a copy would be one too many.
      packed: Any = rgb.planes[0]
      lines = np.frombuffer(packed, np.uint8).reshape(height, -1)
      results.append(lines[:, : 3 * width].reshape(height, width, 3))
    return results[0][None] if len(results) == 1 else np.stack(results)

  def _target(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    """Returns the frame that the planes are resized into, of the same colours as the source."""
    small = self._small
    wanted = (width, height, frame.format.name)
    if small is None or (small.width, small.height, small.format.name) != wanted:
      self._small = small = av.VideoFrame(*wanted)
      self._targets = _planes(small)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    return small


def can_cut(frame: av.VideoFrame, boxes: Sequence[Box], height: int, width: int) -> bool:
  """Returns whether PlaneCutter gives the pixels that the whole frame as RGB would."""
  return (
    frame.format.name in FORMATS
    and height % 2 == width % 2 == 0
    and all(min(box.height, box.width) >= LEAST for box in boxes)
    and all(plane.line_size >= plane.width for plane in frame.planes)  # else upside down
  )


def _planes(frame: Any) -> list[UInt8[np.ndarray, 'h w']]:
  """Returns views of a frame's planes, without the padding of their lines."""
  return [
    np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    for plane in frame.planes
  ]


def _resize(
  plane: UInt8[np.ndarray, 'h w'], box: Box, step: int, target: UInt8[np.ndarray, 'h2 w2']
) -> None:
  """Writes a box of a plane, with a sample for every `step` pixels, into the target."""
  height, width = target.shape
  top, left = box.top // step, box.left // step
  bottom, right = -(-(box.top + box.height) // step), -(-(box.left + box.width) // step)
  scale_y, scale_x = box.height / step / height, box.width / step / width
  aligned = not any(side % step for side in box)
  if aligned or max(scale_y, scale_x) > 1.5:  # then half a sample is less than a result's pixel
    target[:] = whole.resize(plane[top:bottom, left:right], height, width)
    return
  # Centres of samples: those of the target lie at (x + 0.5) * scale in the box.
  matrix = np.array(
    [
      [scale_x, 0, (box.left / step) + 0.5 * scale_x - 0.5],
      [0, scale_y, (box.top / step) + 0.5 * scale_y - 0.5],
    ]
  )
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  cv2.warpAffine(
    plane, matrix, (width, height), target, flags=flags, borderMode=cv2.BORDER_REPLICATE
  )
