# SPDX-License-Identifier: Apache-2.0
"""RandAugment for clips: which operations, how strong, and what they do.

Follows `RandAugment` of TensorFlow models (official/vision/ops/augment.py): each layer takes one of
its 16 operations or, as likely as one of them, none; strengths are `magnitude` on a scale whose
regular end is 10. The paper's magnitudes of 15 and 20 extrapolate: rotation reaches 45 and 60
degrees, a translation 150 and 200 pixels, while posterize keeps 6 and 8 bits and solarize inverts
from 384 and 512 on, so that both run out and do nothing.

Other than there, always on purpose:
- An operation is drawn once per clip, and its statistics are those of the whole clip (Scenic takes
  the frames for one tall image, which is the same); operations that move pixels, which Scenic had
  to leave out for that reason (`operations='scenic'`), treat all frames alike.
- Contrast is around the mean gray level, as in PIL. The original divides the number of pixels, not
  their sum, by 256, and so always blends with white on images of more than 65,280 pixels.
- Cutout is gray (128), not black.
- A threshold above 255 is not wrapped around to 8 bits.

Their sizes are in docs/fidelity.md. With `probability` below 1 and `fill='gray'`, operations are
left out and pixels filled as in timm.

The operations take and give whole clips, uint8 [F, H, W, 3].

Those that look only at a pixel's value are one table of 256 values each. Results are rounded to the
nearest level, where TensorFlow models cut fractions off.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from vivit_jax.config.augment import RandAugment

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
    y, x: its center, in [0, 1) of height and width.
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


END = 10.0  # of the regular scale of magnitudes


@dataclasses.dataclass(frozen=True)
class Kind:
  """One of the operations: how a magnitude becomes its argument, and whether that has a sign."""

  argument: Callable[[float], float]  # of magnitude / END
  signed: bool  # half of all arguments are negated
  moves: bool  # pixels; the others change their values where they are


def _nothing(_: float) -> float:
  return 0.0


def _enhance(level: float) -> float:
  return 1.8 * level + 0.1


KINDS: Mapping[str, Kind] = {
  'AutoContrast': Kind(_nothing, False, False),
  'Equalize': Kind(_nothing, False, False),
  'Invert': Kind(_nothing, False, False),
  'Rotate': Kind(lambda level: 30.0 * level, True, True),  # degrees
  'Posterize': Kind(lambda level: int(4 * level), False, False),  # bits kept
  'Solarize': Kind(lambda level: int(256 * level), False, False),  # inverted from this value on
  'Color': Kind(_enhance, False, False),  # 0 = gray, 1 = as it was
  'Contrast': Kind(_enhance, False, False),
  'Brightness': Kind(_enhance, False, False),
  'Sharpness': Kind(_enhance, False, False),
  'ShearX': Kind(lambda level: 0.3 * level, True, True),  # pixels per pixel
  'ShearY': Kind(lambda level: 0.3 * level, True, True),
  'TranslateX': Kind(lambda level: 100.0 * level, True, True),  # pixels
  'TranslateY': Kind(lambda level: 100.0 * level, True, True),
  'Cutout': Kind(lambda level: int(40 * level), False, False),  # half the side, pixels
  'SolarizeAdd': Kind(lambda level: int(110 * level), False, False),  # to values below 128
}

FUNCTIONS: Mapping[str, Callable] = {
  'AutoContrast': lambda video, _: auto_contrast(video),
  'Equalize': lambda video, _: equalize(video),
  'Invert': lambda video, _: invert(video),
  'Posterize': posterize,
  'Solarize': solarize,
  'Color': color,
  'Contrast': contrast,
  'Brightness': brightness,
  'Sharpness': sharpness,
  'SolarizeAdd': solarize_add,
}
MOVES: Mapping[str, Callable] = {
  'Rotate': rotate,
  'ShearX': lambda video, level, fill: shear(video, level, 0.0, fill),
  'ShearY': lambda video, level, fill: shear(video, 0.0, level, fill),
  'TranslateX': lambda video, pixels, fill: translate(video, pixels, 0.0, fill),
  'TranslateY': lambda video, pixels, fill: translate(video, 0.0, pixels, fill),
}


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation on all frames of a clip."""

  name: str  # of KINDS
  argument: float
  y: float  # cutout: where its center is, in [0, 1) of the height
  x: float
  fill: Fill = 'mirror'  # operations that move pixels: see RandAugment

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns the changed clip."""
    if self.name == 'Cutout':
      return cutout(video, int(self.argument), self.y, self.x)
    if KINDS[self.name].moves:
      return MOVES[self.name](video, self.argument, self.fill)
    return FUNCTIONS[self.name](video, self.argument)


def draw_operations(settings: RandAugment, rng: np.random.Generator) -> tuple[Operation, ...]:
  """Draws the operations of a clip, in their order; at most `settings.layers`."""
  names = [name for name, kind in KINDS.items() if settings.operations == 'all' or not kind.moves]
  idle = settings.probability == 1.0  # no operation is one of the choices
  drawn = []
  for _ in range(settings.layers):
    chosen = int(rng.integers(len(names) + idle))
    sign, y, x, act = rng.random(4).tolist()
    if chosen < len(names) and act < settings.probability:
      kind = KINDS[names[chosen]]
      argument = kind.argument(settings.magnitude / END)
      if kind.signed and sign < 0.5:
        argument = -argument
      drawn.append(Operation(names[chosen], float(argument), y, x, settings.fill))
  return tuple(drawn)
