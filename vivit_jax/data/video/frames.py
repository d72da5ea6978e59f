# SPDX-License-Identifier: Apache-2.0
"""From stored to displayed frames: square pixels, and rotated as the file requests.

Phones store the sensor image with a rotation; DVDs and old camcorders store non-square pixels.
Frames are returned as a player displays them: rotated by the nearest multiple of 90 degrees, with
square pixels.

Crops request resized boxes of the displayed frame. The boxes are cut and resized as luma and chroma
planes and converted to RGB afterwards; the rest of the frame is never converted. This takes a third
of the time of converting first, because most of a frame is outside the crop, 4:2:0 planes have half
the samples of RGB, and a crop is usually reduced in size.
Resizing and conversion are both linear, so swapping them changes only rounding.
"""

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, runtime_checkable

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float64, UInt8

from vivit_jax.data.timing import stage

cv2.setNumThreads(1)  # videos are read side by side; threads within one would only compete


class Box(NamedTuple):
  """A non-empty box of whole pixels within a displayed frame."""

  top: int
  left: int
  height: int
  width: int


@runtime_checkable
class Crops(Protocol):
  """Defines the boxes to cut out of every frame, their size, and a final step.

  Calling it with a whole frame gives the same result as a decoder that cuts out the boxes.
  """

  @property
  def height(self) -> int:
    """Of each result, in pixels."""

  @property
  def width(self) -> int:
    """Of each result, in pixels."""

  def boxes(self, height: int, width: int) -> Sequence[Box]:
    """Returns the boxes to cut out of a frame of this size."""

  def finish(self, crops: UInt8[np.ndarray, 's h w 3']) -> UInt8[np.ndarray, '...']:
    """Returns the result of a frame from its resized boxes, given in order."""

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
  """Returns a resized image; each pixel is the mean of the source pixels that it covers.

  If the image is at least twice as large, means of whole blocks are computed first, which takes
  OpenCV a fifth of the time. This drops at most block - 1 rows and columns (less than one of the
  result), half on each side.
  """
  h, w = image.shape[:2]
  block_h, block_w = max(1, h // height), max(1, w // width)
  if block_h * block_w > 1:
    rows, columns = h // block_h, w // block_w
    top, left = h % block_h // 2, w % block_w // 2
    image = image[top : top + rows * block_h, left : left + columns * block_w]
    image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
  # Area means avoid flicker of fine patterns, but cost five times as much as bilinear, which still
  # uses every source pixel for smaller reductions.
  many = image.shape[0] > 1.5 * height or image.shape[1] > 1.5 * width
  how = cv2.INTER_AREA if many else cv2.INTER_LINEAR
  return cv2.resize(image, (width, height), interpolation=how)


# Encoders round the ratio; a deviation below 1 % is invisible and not worth a resize.
SQUARE = (Fraction(99, 100), Fraction(101, 100))
# Ratios outside this range are invalid: the widest format in use, anamorphic film, has 2.
BELIEVABLE = (Fraction(1, 4), Fraction(4))


class FrameRenderer:
  """Renders decoded frames, whole or as crops; caches what frames share."""

  def __init__(self) -> None:
    # Shared by all frames: setting up a conversion costs more than converting a small frame.
    self._reformatter = VideoReformatter()
    self._cutter = PlaneCutter()

  def viewer(
    self, pixel: Any, transform: Crops | Callable[[np.ndarray], np.ndarray]
  ) -> Callable[[av.VideoFrame], np.ndarray]:
    """Returns a function from a decoded frame to the transform's result.

    Args:
      pixel: width / height of a stored pixel as the stream specifies it; 0 or None if it does not.
      transform: applied to whole frames; for Crops, only the boxes are converted if that is faster.
    """
    aspect = Fraction(pixel or 1)  # PyAV 19: 0 of its own type = none
    crops = transform if isinstance(transform, Crops) else None
    known: dict[tuple[int, int, str], Sequence[Box] | None] = {}

    def view(frame: av.VideoFrame) -> np.ndarray:
      with stage('crop'):
        kind = frame.width, frame.height, frame.format.name
        if crops is not None and kind not in known:
          known[kind] = _boxes(frame, aspect, crops)
        boxes = known.get(kind)
        if crops is None or boxes is None or 'DISPLAYMATRIX' in frame.side_data:
          return transform(self.whole(frame, aspect))
        return crops.finish(self._cutter.cut(frame, boxes, crops.height, crops.width))

    return view

  def whole(self, frame: av.VideoFrame, pixel: Fraction | None) -> UInt8[np.ndarray, 'h w 3']:
    """Returns a frame as a player shows it, RGB; `pixel` as in `square_size`."""
    width, height = square_size(frame.width, frame.height, pixel)
    # Starting threads takes longer than converting a frame, and the default is one per processor.
    rgb = self._reformatter.reformat(frame, width, height, 'rgb24', threads=1)
    return upright(rgb.to_ndarray(), frame.side_data)


def _boxes(frame: av.VideoFrame, pixel: Fraction, crops: Crops) -> Sequence[Box] | None:
  """Returns the boxes to cut out of frames like this one, or None if whole frames are needed."""
  if square_size(frame.width, frame.height, pixel) != (frame.width, frame.height):
    return None
  boxes = crops.boxes(frame.height, frame.width)
  return boxes if can_cut(frame, boxes, crops.height, crops.width) else None


def square_size(width: int, height: int, pixel: Fraction | None) -> tuple[int, int]:
  """Returns the (width, height) of a stored frame with square pixels.

  The side with the denser pixels is reduced. Enlarging the other side would invent pixels, and a
  header field could then determine the memory of a frame.

  Args:
    width, height: as stored.
    pixel: width of a pixel divided by its height; None = unspecified, assumed square.
  """
  if pixel is None or not BELIEVABLE[0] <= pixel <= BELIEVABLE[1] or SQUARE[0] < pixel < SQUARE[1]:
    return width, height
  if pixel > 1:
    return width, max(1, round(height / pixel))
  return max(1, round(width * pixel)), height


def upright(image: UInt8[np.ndarray, 'h w 3'], side_data: Any) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Returns a view of a stored frame, rotated and mirrored by its display matrix.

  The matrix maps a pixel (x, y), y downwards, to (a x + c y, b x + d y). With only a and d, it is a
  rotation by 180 degrees or a mirror; with only b and c, a rotation by 90 degrees. Other angles are
  rounded to the nearest of these.

  Args:
    image: the stored frame.
    side_data: side data of the decoded frame; without a display matrix, `image` is returned.
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


FORMATS = ('yuv420p', 'yuvj420p')  # 8 bits; the color planes have half the height and width
STEPS = (1, 2, 2)  # pixels per sample of each plane, either way
LEAST = 32  # minimum side of a box, pixels; below, a chroma sample covers too much of the result


class PlaneCutter:
  """Cuts boxes out of frames; caches what successive frames share."""

  def __init__(self) -> None:
    self._reformatter = VideoReformatter()  # setting one up costs more than a conversion
    self._small: av.VideoFrame | None = None
    self._targets: list[UInt8[np.ndarray, 'h w']] = []

  def cut(
    self, frame: av.VideoFrame, boxes: Sequence[Box], height: int, width: int
  ) -> UInt8[np.ndarray, 's h2 w2 3']:
    """Returns boxes of a frame as RGB: uint8 [len(boxes), height, width, 3].

    Args:
      frame: a frame for which `can_cut` is true, or a frame of the same stream and format.
      boxes: boxes in stored pixels.
      height, width: size of the results.
    """
    sources = _planes(frame)
    small = self._target(frame, height, width)
    results = []
    for box in boxes:
      for source, target, step in zip(sources, self._targets, STEPS, strict=True):
        _resize(source, _part(box, step, *target.shape), target)
      # Starting threads takes longer than converting, and the default is one per processor.
      rgb = self._reformatter.reformat(small, width, height, 'rgb24', threads=1)
      # This memory belongs to the result alone, so no copy is needed.
      packed: Any = rgb.planes[0]
      lines = np.frombuffer(packed, np.uint8).reshape(height, -1)
      results.append(lines[:, : 3 * width].reshape(height, width, 3))
    return results[0][None] if len(results) == 1 else np.stack(results)

  def _target(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    """Returns a frame for the resized planes, with the color space of the source."""
    small = self._small
    wanted = (width, height, frame.format.name)
    if small is None or (small.width, small.height, small.format.name) != wanted:
      self._small = small = av.VideoFrame(*wanted)
      self._targets = _planes(small)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    return small


def can_cut(frame: av.VideoFrame, boxes: Sequence[Box], height: int, width: int) -> bool:
  """Returns whether PlaneCutter gives the same pixels as conversion of the whole frame."""
  return (
    frame.format.name in FORMATS
    and height % 2 == width % 2 == 0
    and all(min(box.height, box.width) >= LEAST for box in boxes)
    and all(plane.line_size >= plane.width for plane in frame.planes)  # else upside down
  )


def _planes(frame: Any) -> list[UInt8[np.ndarray, 'h w']]:
  """Returns views of a frame's planes without line padding."""
  return [
    np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    for plane in frame.planes
  ]


class _Part(NamedTuple):
  """A box in a plane."""

  rows: slice
  columns: slice
  matrix: Float64[np.ndarray, '2 3'] | None  # of warpAffine; None where resizing does


@functools.lru_cache(256)
def _part(box: Box, step: int, height: int, width: int) -> _Part:
  """Returns how to resize a box of a plane to height x width samples of `step` pixels each."""
  top, left = box.top // step, box.left // step
  bottom, right = -(-(box.top + box.height) // step), -(-(box.left + box.width) // step)
  scale_y, scale_x = box.height / step / height, box.width / step / width
  aligned = not any(side % step for side in box)
  matrix = None
  if not aligned and max(scale_y, scale_x) <= 1.5:  # else half a sample is less than a pixel
    # Aligns sample centers: those of the target are at (x + 0.5) * scale in the box.
    matrix = np.array(
      [
        [scale_x, 0, (box.left / step) + 0.5 * scale_x - 0.5],
        [0, scale_y, (box.top / step) + 0.5 * scale_y - 0.5],
      ]
    )
  return _Part(slice(top, bottom), slice(left, right), matrix)


def _resize(
  plane: UInt8[np.ndarray, 'h w'], place: _Part, target: UInt8[np.ndarray, 'h2 w2']
) -> None:
  """Writes a resized box of a plane into the target."""
  height, width = target.shape
  if place.matrix is None:
    target[:] = resize(plane[place.rows, place.columns], height, width)
    return
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  cv2.warpAffine(
    plane, place.matrix, (width, height), target, flags=flags, borderMode=cv2.BORDER_REPLICATE
  )
