# SPDX-License-Identifier: Apache-2.0
"""RandAugment for clips: which operations, how strong; operations.py has what they do.

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
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config_augment import RandAugment
from vivit_jax.data.augmentation import operations as do
from vivit_jax.data.augmentation.operations import Fill

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
  'AutoContrast': lambda video, _: do.auto_contrast(video),
  'Equalize': lambda video, _: do.equalize(video),
  'Invert': lambda video, _: do.invert(video),
  'Posterize': do.posterize,
  'Solarize': do.solarize,
  'Color': do.color,
  'Contrast': do.contrast,
  'Brightness': do.brightness,
  'Sharpness': do.sharpness,
  'SolarizeAdd': do.solarize_add,
}
MOVES: Mapping[str, Callable] = {
  'Rotate': do.rotate,
  'ShearX': lambda video, level, fill: do.shear(video, level, 0.0, fill),
  'ShearY': lambda video, level, fill: do.shear(video, 0.0, level, fill),
  'TranslateX': lambda video, pixels, fill: do.translate(video, pixels, 0.0, fill),
  'TranslateY': lambda video, pixels, fill: do.translate(video, 0.0, pixels, fill),
}


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation on all frames of a clip."""

  name: str  # of KINDS
  argument: float
  y: float  # cutout: where its centre is, in [0, 1) of the height
  x: float
  fill: Fill = 'mirror'  # operations that move pixels: see RandAugment

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns the changed clip."""
    if self.name == 'Cutout':
      return do.cutout(video, int(self.argument), self.y, self.x)
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
