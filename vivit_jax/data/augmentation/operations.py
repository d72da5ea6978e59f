# SPDX-License-Identifier: Apache-2.0
"""The operations of RandAugment on whole clips, uint8 [F, H, W, 3] in and out; see rand_augment.py.

Those that look only at a pixel's value are one table of 256 values each. Results are rounded to the
nearest level, where TensorFlow models cut fractions off.
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

Video = UInt8[np.ndarray, 'f h w 3']
Fill = Literal['mirror', 'gray']  # of what comes in from outside, see config_augment.RandAugment

GRAY = 128  # of cutout, and of what comes in from outside with fill='gray'
LEVELS = np.arange(256)
WEIGHTS = np.array([0.299, 0.587, 0.114])  # of red, green and blue in gray


def auto_contrast(video: Video) -> Video:
  """Stretches each channel of the clip to 0..255; one that has a single value stays."""
  tables = []
  for counts in _histograms(video):
    low, high = np.flatnonzero(counts)[[0, -1]]
    tables.append((LEVELS - low) * 255 // (high - low) if high > low else LEVELS)
  return _look_up(video, np.stack(tables, axis=-1))


def equalize(video: Video) -> Video:
  """Spreads the values of each channel of the clip evenly, as PIL does."""
  tables = []
  for counts in _histograms(video):
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # The first value stays 0, and values without pixels don't matter.
    spread = np.where(LEVELS > 0, (before + step // 2) // max(step, 1), 0)
    tables.append(spread if step else LEVELS)
  return _look_up(video, np.stack(tables, axis=-1))


def invert(video: Video) -> Video:
  """White becomes black."""
  return cv2.bitwise_not(video)


def posterize(video: Video, bits: float) -> Video:
  """Keeps the `bits` highest bits; 8 or more are all."""
  shift = max(0, 8 - int(bits))
  return _look_up(video, LEVELS >> shift << shift)


def solarize(video: Video, threshold: float) -> Video:
  """Inverts values of at least `threshold`; none above 255."""
  return _look_up(video, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def solarize_add(video: Video, addition: float) -> Video:
  """Adds to values below 128."""
  return _look_up(video, np.where(LEVELS < 128, LEVELS + addition, LEVELS))


def brightness(video: Video, factor: float) -> Video:
  """Multiplies all values."""
  return _look_up(video, factor * LEVELS)


def contrast(video: Video, factor: float) -> Video:
  """Multiplies the distance of all values from the clip's mean gray."""
  mean = float(np.array(cv2.mean(_tall(video))[:3]) @ WEIGHTS)
  return _look_up(video, mean + factor * (LEVELS - mean))


def color(video: Video, factor: float) -> Video:
  """Multiplies the distance of each pixel from its gray."""
  matrix = factor * np.eye(3) + (1 - factor) * WEIGHTS
  return cv2.transform(_tall(video), matrix).reshape(video.shape)


def sharpness(video: Video, factor: float) -> Video:
  """Multiplies the distance of each pixel from a smoothed frame; borders stay as they are."""
  kernel = (1 - factor) * np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
  kernel[1, 1] += factor
  result = video.copy()
  for frame, target in zip(video, result, strict=True):
    target[1:-1, 1:-1] = cv2.filter2D(frame, -1, kernel)[1:-1, 1:-1]
  return result


def rotate(video: Video, degrees: float, fill: Fill = 'mirror') -> Video:
  """Turns all frames clockwise around their middle; negative degrees turn them back."""
  height, width = video.shape[1:3]
  cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  turn = np.array([[cos, sin], [-sin, cos]])
  middle = np.array([width - 1, height - 1]) / 2
  return _warp(video, turn, middle - turn @ middle, fill)


def shear(video: Video, x: float, y: float, fill: Fill = 'mirror') -> Video:
  """Shows at (column, row) what was at (column + x * row, row + y * column)."""
  return _warp(video, np.array([[1.0, x], [y, 1.0]]), np.zeros(2), fill)


def translate(video: Video, x: float, y: float, fill: Fill = 'mirror') -> Video:
  """Shows at (column, row) what was at (column + x, row + y)."""
  return _warp(video, np.eye(2), np.array([x, y]), fill)


def cutout(video: Video, half: int, y: float, x: float) -> Video:
  """Grays a square of side 2 * half in all frames, cut off at the borders.

  Args:
    video: the clip.
    half: pixels.
    y, x: its centre, in [0, 1) of height and width.
  """
  height, width = video.shape[1:3]
  row, column = int(y * height), int(x * width)
  result = video.copy()
  result[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = GRAY
  return result


def _tall(video: Video) -> UInt8[np.ndarray, 'n w 3']:
  """Returns all frames as one image, above each other."""
  return video.reshape(-1, *video.shape[2:])


def _look_up(video: Video, table: np.ndarray) -> Video:
  """Replaces every value by the table's, [256] or [256, 3]."""
  table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
  if table.ndim == 2:
    return cv2.LUT(_tall(video), table[None]).reshape(video.shape)
  return cv2.LUT(video.reshape(len(video), -1), table).reshape(video.shape)


def _histograms(video: Video) -> list[np.ndarray]:
  """Returns how often each value is in the clip's red, green and blue."""
  return [
    cv2.calcHist([_tall(video)], [c], None, [256], [0, 256]).ravel().astype(np.int64)
    for c in range(3)
  ]


def _warp(
  video: Video, matrix: Float64[np.ndarray, '2 2'], offset: Float64[np.ndarray, ' 2'], fill: Fill
) -> Video:
  """Shows at (column, row) the nearest pixel to matrix @ (column, row) + offset, or the fill."""
  height, width = video.shape[1:3]
  columns, rows = np.meshgrid(np.arange(width), np.arange(height))
  source = np.stack([columns, rows], axis=-1) @ matrix.T + offset
  # As pixel numbers, which nearest neighbours need: OpenCV rounds fractions in steps of its own.
  places = np.floor(source + 0.5).astype(np.int16)
  none = np.empty(0, np.int16)  # fractions of pixels
  result = np.empty_like(video)
  # BORDER_REFLECT repeats the edge pixel, which REFLECT_101 does not.
  border = cv2.BORDER_REFLECT if fill == 'mirror' else cv2.BORDER_CONSTANT
  how = {'borderMode': border, 'borderValue': (GRAY, GRAY, GRAY)}
  for frame, target in zip(video, result, strict=True):
    cv2.remap(frame, places, none, cv2.INTER_NEAREST, dst=target, **how)  # type: ignore[call-overload]
  return result
