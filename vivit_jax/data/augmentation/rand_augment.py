# SPDX-License-Identifier: Apache-2.0
"""RandAugment for clips: the operations, their strengths and their implementation.

It follows `RandAugment` of TensorFlow Models (official/vision/ops/augment.py): each layer applies
one of 16 operations, or none, all equally likely. The strength is `magnitude`, usually from 0 to
10. The paper's magnitudes of 15 and 20 extrapolate: rotations reach 45 and 60 degrees, translations
150 and 200 pixels. Posterize then keeps 6 and 8 bits (all at 20), and solarize inverts values from
384 and 512 on (none).

Intentional differences from TensorFlow Models:
- An operation is drawn once per clip and uses the statistics of the whole clip, like Scenic, which
  stacks the frames into one tall image. Geometric operations, which Scenic omits because of the
  stacking (`operations='scenic'`), are applied to every frame alike.
- Contrast is relative to the mean gray level, as in PIL. The original divides the number of pixels,
  not their sum, by 256, so it blends with white for images of more than 65,280 pixels.
- Cutout is gray (128), not black.
- A threshold above 255 is not wrapped around to 8 bits.

docs/fidelity.md has the size of these differences. With `probability` below 1 and `fill='gray'`,
operations are skipped and pixels filled as in timm.

The operations map clips uint8 [F, H, W, 3] to clips of the same shape.

Operations that depend only on a pixel's value are lookup tables of 256 values. Results are rounded
to the nearest level, whereas TensorFlow Models truncates them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from vivit_jax.config.augment import RandAugment

Video = UInt8[np.ndarray, 'f h w 3']
Fill = Literal['mirror', 'gray']  # value of pixels from outside the image

GRAY = 128  # value for cutout, and for pixels from outside with fill='gray'
LEVELS = np.arange(256)
WEIGHTS = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in grayscale


def auto_contrast(video: Video) -> Video:
  """Stretches each channel of the clip to 0..255; a constant channel is unchanged."""
  tables = []
  for counts in _histograms(video):
    low, high = np.flatnonzero(counts)[[0, -1]]
    tables.append((LEVELS - low) * 255 // (high - low) if high > low else LEVELS)
  return _look_up(video, np.stack(tables, axis=-1))


def equalize(video: Video) -> Video:
  """Equalizes the histogram of each channel of the clip, as PIL does."""
  tables = []
  for counts in _histograms(video):
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # The first value stays 0, and values without pixels don't matter.
    spread = np.where(LEVELS > 0, (before + step // 2) // max(step, 1), 0)
    tables.append(spread if step else LEVELS)
  return _look_up(video, np.stack(tables, axis=-1))


def invert(video: Video) -> Video:
  """Inverts all values."""
  return cv2.bitwise_not(video)


def posterize(video: Video, bits: float) -> Video:
  """Keeps the `bits` highest bits; 8 or more keep all."""
  shift = max(0, 8 - int(bits))
  return _look_up(video, LEVELS >> shift << shift)


def solarize(video: Video, threshold: float) -> Video:
  """Inverts values of at least `threshold`; a threshold above 255 inverts none."""
  return _look_up(video, np.where(threshold > LEVELS, LEVELS, 255 - LEVELS))


def solarize_add(video: Video, addition: float) -> Video:
  """Adds `addition` to values below 128."""
  return _look_up(video, np.where(LEVELS < 128, LEVELS + addition, LEVELS))


def brightness(video: Video, factor: float) -> Video:
  """Multiplies all values by `factor`."""
  return _look_up(video, factor * LEVELS)


def contrast(video: Video, factor: float) -> Video:
  """Scales the distance of all values from the clip's mean gray level."""
  mean = float(np.array(cv2.mean(_tall(video))[:3]) @ WEIGHTS)
  return _look_up(video, mean + factor * (LEVELS - mean))


def color(video: Video, factor: float) -> Video:
  """Scales the distance of each pixel from its gray value."""
  matrix = factor * np.eye(3) + (1 - factor) * WEIGHTS
  return cv2.transform(_tall(video), matrix).reshape(video.shape)


def sharpness(video: Video, factor: float) -> Video:
  """Scales the distance of each pixel from a smoothed frame; border pixels are unchanged."""
  kernel = (1 - factor) * np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
  kernel[1, 1] += factor
  result = video.copy()
  for frame, target in zip(video, result, strict=True):
    target[1:-1, 1:-1] = cv2.filter2D(frame, -1, kernel)[1:-1, 1:-1]
  return result


def rotate(video: Video, degrees: float, fill: Fill = 'mirror') -> Video:
  """Rotates all frames around their center, clockwise for positive degrees."""
  height, width = video.shape[1:3]
  cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  turn = np.array([[cos, sin], [-sin, cos]])
  middle = np.array([width - 1, height - 1]) / 2
  return _warp(video, turn, middle - turn @ middle, fill)


def shear(video: Video, x: float, y: float, fill: Fill = 'mirror') -> Video:
  """Sets the pixel at (column, row) to that at (column + x * row, row + y * column)."""
  return _warp(video, np.array([[1.0, x], [y, 1.0]]), np.zeros(2), fill)


def translate(video: Video, x: float, y: float, fill: Fill = 'mirror') -> Video:
  """Sets the pixel at (column, row) to that at (column + x, row + y)."""
  return _warp(video, np.eye(2), np.array([x, y]), fill)


def cutout(video: Video, half: int, y: float, x: float) -> Video:
  """Fills a square of side 2 * half with gray in all frames, clipped at the borders.

  Args:
    video: the clip.
    half: half of the side, in pixels.
    y, x: center of the square, as fractions in [0, 1) of height and width.
  """
  height, width = video.shape[1:3]
  row, column = int(y * height), int(x * width)
  result = video.copy()
  result[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = GRAY
  return result


def _tall(video: Video) -> UInt8[np.ndarray, 'n w 3']:
  """Returns all frames stacked vertically in one image."""
  return video.reshape(-1, *video.shape[2:])


def _look_up(video: Video, table: np.ndarray) -> Video:
  """Replaces every value by its entry in a table [256] or [256, 3]."""
  table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
  if table.ndim == 2:
    return cv2.LUT(_tall(video), table[None]).reshape(video.shape)
  return cv2.LUT(video.reshape(len(video), -1), table).reshape(video.shape)


def _histograms(video: Video) -> list[np.ndarray]:
  """Returns the histograms of red, green and blue over the clip."""
  return [
    cv2.calcHist([_tall(video)], [c], None, [256], [0, 256]).ravel().astype(np.int64)
    for c in range(3)
  ]


def _warp(
  video: Video, matrix: Float64[np.ndarray, '2 2'], offset: Float64[np.ndarray, ' 2'], fill: Fill
) -> Video:
  """Sets (column, row) to the pixel nearest to matrix @ (column, row) + offset, or to the fill."""
  height, width = video.shape[1:3]
  columns, rows = np.meshgrid(np.arange(width), np.arange(height))
  source = np.stack([columns, rows], axis=-1) @ matrix.T + offset
  # Rounded to pixel numbers here, because OpenCV quantizes fractional positions.
  places = np.floor(source + 0.5).astype(np.int16)
  none = np.empty(0, np.int16)  # no fractional positions
  result = np.empty_like(video)
  # BORDER_REFLECT repeats the edge pixel; REFLECT_101 does not.
  border = cv2.BORDER_REFLECT if fill == 'mirror' else cv2.BORDER_CONSTANT
  how = {'borderMode': border, 'borderValue': (GRAY, GRAY, GRAY)}
  for frame, target in zip(video, result, strict=True):
    cv2.remap(frame, places, none, cv2.INTER_NEAREST, dst=target, **how)  # type: ignore[call-overload]
  return result


END = 10.0  # end of the usual magnitude scale


@dataclasses.dataclass(frozen=True)
class Kind:
  """An operation type: how its argument follows from the magnitude."""

  argument: Callable[[float], float]  # function of magnitude / END
  signed: bool  # whether the argument is negated with probability 0.5
  moves: bool  # whether it is geometric; the others change pixel values in place


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
  'Solarize': Kind(lambda level: int(256 * level), False, False),  # inverts from this value on
  'Color': Kind(_enhance, False, False),  # 0 = gray, 1 = unchanged
  'Contrast': Kind(_enhance, False, False),
  'Brightness': Kind(_enhance, False, False),
  'Sharpness': Kind(_enhance, False, False),
  'ShearX': Kind(lambda level: 0.3 * level, True, True),  # pixels per pixel
  'ShearY': Kind(lambda level: 0.3 * level, True, True),
  'TranslateX': Kind(lambda level: 100.0 * level, True, True),  # pixels
  'TranslateY': Kind(lambda level: 100.0 * level, True, True),
  'Cutout': Kind(lambda level: int(40 * level), False, False),  # half the side, pixels
  'SolarizeAdd': Kind(lambda level: int(110 * level), False, False),  # added to values below 128
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
  """An operation with its parameters for one clip."""

  name: str  # a key of KINDS
  argument: float
  y: float  # for cutout: vertical center, as a fraction in [0, 1) of the height
  x: float
  fill: Fill = 'mirror'  # for geometric operations; see RandAugment

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns the changed clip."""
    if self.name == 'Cutout':
      return cutout(video, int(self.argument), self.y, self.x)
    if KINDS[self.name].moves:
      return MOVES[self.name](video, self.argument, self.fill)
    return FUNCTIONS[self.name](video, self.argument)


def draw_operations(settings: RandAugment, rng: np.random.Generator) -> tuple[Operation, ...]:
  """Draws the operations of a clip, at most `settings.layers`, in order."""
  names = [name for name, kind in KINDS.items() if settings.operations == 'all' or not kind.moves]
  idle = settings.probability == 1.0  # 'no operation' is one of the choices
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
