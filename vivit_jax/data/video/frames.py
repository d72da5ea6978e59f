# SPDX-License-Identifier: Apache-2.0
"""From stored to shown: square pixels, and the way up that the file asks players to turn frames.

Phones store what the sensor saw and write down how they were held; DVDs and old camcorders store
pixels that are not square. Frames are given as a player shows them, turned by the nearest number of
quarters, so that up is up and circles are round, whatever they were recorded with.

Crops ask for boxes of shown pixels, resized; the frame need not exist whole. The boxes are resized
as brightness and color planes, and only then made RGB; what lies outside of them is never
converted. Most of a frame lies outside of the crop, planes of 4:2:0 have half the samples of RGB,
and a result has fewer pixels than what it shows: this costs a third of converting, cutting and
resizing.
Resizing and the conversion are both linear, so their order changes roundings alone.
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


# Encoders round the ratio to what their fields hold; below 1 % nobody sees it, and a resize costs.
SQUARE = (Fraction(99, 100), Fraction(101, 100))
# Beyond this the field is garbage: the flattest format in use, anamorphic film, has 2.
BELIEVABLE = (Fraction(1, 4), Fraction(4))


class FrameRenderer:
  """Shows decoded frames, whole or as crops; keeps what they share."""

  def __init__(self) -> None:
    # One for all frames: setting a conversion up costs more than converting a small frame.
    self._reformatter = VideoReformatter()
    self._cutter = PlaneCutter()

  def viewer(
    self, pixel: Any, transform: Crops | Callable[[np.ndarray], np.ndarray]
  ) -> Callable[[av.VideoFrame], np.ndarray]:
    """Returns a function from a decoded frame to the transform's result.

    Args:
      pixel: width / height of a stored pixel, as the stream has it; 0 or None where it has none.
      transform: Crops get their boxes where these can be had for less than the whole frame.
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
  """Returns what to cut out of frames like this one; None where that takes whole frames."""
  if square_size(frame.width, frame.height, pixel) != (frame.width, frame.height):
    return None
  boxes = crops.boxes(frame.height, frame.width)
  return boxes if can_cut(frame, boxes, crops.height, crops.width) else None


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


FORMATS = ('yuv420p', 'yuvj420p')  # 8 bits; the color planes have half the height and width
STEPS = (1, 2, 2)  # pixels per sample of each plane, either way
LEAST = 32  # pixels of a box's side; below, a color sample covers too much of the result


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
      frame: for which `can_cut` holds, or one of the same stream that is like such a one.
      boxes: in pixels as stored.
      height, width: of the results.
    """
    sources = _planes(frame)
    small = self._target(frame, height, width)
    results = []
    for box in boxes:
      for source, target, step in zip(sources, self._targets, STEPS, strict=True):
        _resize(source, _part(box, step, *target.shape), target)
      # Starting threads takes longer than converting, and the default is one per processor.
      rgb = self._reformatter.reformat(small, width, height, 'rgb24', threads=1)
      # Memory of its own that nobody else writes to: a copy would be one too many.
      packed: Any = rgb.planes[0]
      lines = np.frombuffer(packed, np.uint8).reshape(height, -1)
      results.append(lines[:, : 3 * width].reshape(height, width, 3))
    return results[0][None] if len(results) == 1 else np.stack(results)

  def _target(self, frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    """Returns the frame that the planes are resized into, of the same colors as the source."""
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


class _Part(NamedTuple):
  """Where a box lies in a plane."""

  rows: slice
  columns: slice
  matrix: Float64[np.ndarray, '2 3'] | None  # of warpAffine; None where resizing does


@functools.lru_cache(256)
def _part(box: Box, step: int, height: int, width: int) -> _Part:
  """Returns how a box of a plane becomes height x width samples; `step` pixels a sample."""
  top, left = box.top // step, box.left // step
  bottom, right = -(-(box.top + box.height) // step), -(-(box.left + box.width) // step)
  scale_y, scale_x = box.height / step / height, box.width / step / width
  aligned = not any(side % step for side in box)
  matrix = None
  if not aligned and max(scale_y, scale_x) <= 1.5:  # else half a sample is less than a pixel
    # Centres of samples: those of the target lie at (x + 0.5) * scale in the box.
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
  """Writes a box of a plane into the target."""
  height, width = target.shape
  if place.matrix is None:
    target[:] = resize(plane[place.rows, place.columns], height, width)
    return
  flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
  cv2.warpAffine(
    plane, place.matrix, (width, height), target, flags=flags, borderMode=cv2.BORDER_REPLICATE
  )
