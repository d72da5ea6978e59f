# SPDX-License-Identifier: Apache-2.0
"""Settings of the training augmentation: the config section `augment`."""

import dataclasses
import math
from typing import Annotated, Literal

LARGEST = 2**31 - 1  # largest step or size: JAX uses 32-bit integers


@dataclasses.dataclass(frozen=True)
class Range:
  """Interval of valid values for a setting of type `Annotated[..., Range(low, high)]`.

  Attributes:
    low: smallest valid value.
    high: largest valid value.
    below: whether `high` itself is excluded.
  """

  low: int | float
  high: int | float = math.inf
  below: bool = False

  def __contains__(self, value: int | float) -> bool:
    return (
      math.isfinite(value)
      and self.low <= value <= self.high
      and not (self.below and value == self.high)
    )

  def needs(self, value: int | float) -> str:
    """Returns the requirement that `value` violates, e.g. 'at least 1' or 'from 0 to 1'."""
    if self.high < LARGEST:
      return f'from {self.low} to {"below " if self.below else ""}{self.high}'
    return f'at most {self.high}' if self.high < value < math.inf else f'at least {self.low}'


Count = Annotated[int, Range(1, LARGEST)]
CountOrZero = Annotated[int, Range(0, LARGEST)]
Fraction = Annotated[float, Range(0.0, 1.0)]
Rate = Annotated[float, Range(0.0, 1.0, below=True)]  # 1 would drop everything
NonNegative = Annotated[float, Range(0.0)]
Positive = Annotated[float, Range(1e-3)]
Layers = Annotated[int, Range(1, 1000)]  # far above any real model; each layer is traced
LayersOrZero = Annotated[int, Range(0, 1000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX's PRNG takes 32-bit seeds
Seconds = Annotated[float, Range(0.0, 1e8)]  # about three years, the limit of OS timers
Triple = tuple[float, float, float]  # one value per channel


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
  """Random crop of a training clip; all frames share one box."""

  kind: Literal['scale_jitter', 'inception'] = 'scale_jitter'
  # scale_jitter: the shorter side of the frames is resized to `short_side` times a random factor
  # from `scale`, but at least to the crop size; then the frames are cropped.
  short_side: Count | None = None  # pixels; None = 8/7 of the crop, 256 for 224 as in Scenic
  scale: tuple[NonNegative, NonNegative] = (0.9, 1.33)  # paper Table 7
  stretch: bool = True  # separate factors for height and width, as in Scenic
  # inception (arXiv 1409.4842, section 6): a box of random area and aspect ratio.
  area: tuple[NonNegative, Fraction] = (0.08, 1.0)  # fraction of the frame
  ratio: tuple[NonNegative, NonNegative] = (
    3 / 4,
    4 / 3,
  )  # width / height, relative to that of the clip


@dataclasses.dataclass(frozen=True)
class ColorJitter:
  """Color jitter and color drop; the strengths are DMVR's, which the paper's recipes use."""

  probability: Fraction = 0.0  # of color jitter; paper: 0.8 on Kinetics and Moments in Time
  brightness: Fraction = 32 / 255  # maximum added or subtracted; 1 = black to white
  saturation: tuple[NonNegative, NonNegative] = (0.6, 1.4)  # factors
  contrast: tuple[NonNegative, NonNegative] = (0.6, 1.4)  # factors
  hue: Fraction = 0.2  # maximum rotation, as a fraction of the color circle
  drop: Fraction = 0.0  # of a gray clip; paper: 0.1 on Kinetics and Moments in Time


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """A sequence of random image operations (arXiv 1909.13719); see data/augmentation/."""

  layers: CountOrZero = 0  # operations per clip; paper: 2 on Epic-Kitchens and SSv2
  # Usually 0 to 10. Paper: 15 on Epic-Kitchens, 20 on Something-Something.
  magnitude: Annotated[float, Range(0.0, 30.0)] = 10.0
  # all: the 16 operations of TensorFlow Models. scenic: without the five geometric ones.
  operations: Literal['all', 'scenic'] = 'all'
  # Probability that a drawn operation is applied. With 1, 'no operation' is one more of the
  # equally likely draws (TensorFlow Models); below 1 it is never drawn (timm, with 0.5).
  probability: Fraction = 1.0
  # Value of pixels from outside the image: mirror reflects the image at its edges (TensorFlow
  # Models), gray is 128 (timm).
  fill: Literal['mirror', 'gray'] = 'mirror'


@dataclasses.dataclass(frozen=True)
class RandomErasing:
  """Random erasing (arXiv 1708.04896) as in VideoMAE, with timm's sizes."""

  probability: Fraction = 0.0  # VideoMAE fine-tunes with 0.25
  area: tuple[NonNegative, Fraction] = (0.02, 1 / 3)  # fraction of the clip
  ratio: tuple[NonNegative, NonNegative] = (0.3, 1 / 0.3)  # height / width


@dataclasses.dataclass(frozen=True)
class Augment:
  """Augmentation of training clips; the defaults are what the paper uses on every data set.

  All frames of a clip share the same random parameters.
  """

  crop: TrainingCrop = TrainingCrop()
  # horizontal: mirrors each clip with probability 0.5, as in the paper. swap_labels: also replaces
  # the label of a mirrored clip by that of the class whose name has left and right exchanged
  # (Something-Something).
  flip: Literal['horizontal', 'off', 'swap_labels'] = 'horizontal'
  rand_augment: RandAugment = RandAugment()
  color_jitter: ColorJitter = ColorJitter()
  random_erasing: RandomErasing = RandomErasing()
  # Clips per video, next to each other in a batch (arXiv 1901.09335; VideoMAE fine-tunes with 2).
  # Epochs count clips: with k, an epoch has the same number of steps but shows only 1/k of the
  # videos, so n epochs in VideoMAE's count are k * n epochs here.
  repeated_augmentation: Count = 1
  # User functions, each given as 'module:name' and called in this order after all of the above:
  # (clip uint8 [F, H, W, 3], numpy Generator) -> clip of the same type and shape.
  custom: tuple[str, ...] = ()
