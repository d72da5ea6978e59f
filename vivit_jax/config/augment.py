# SPDX-License-Identifier: Apache-2.0
"""Settings of the training augmentation, the section `augment` of an experiment."""

import dataclasses
import math
from typing import Annotated, Literal

LARGEST = 2**31 - 1  # of steps and sizes: JAX counts in 32 bits


@dataclasses.dataclass(frozen=True)
class Range:
  """Interval that a number in `Annotated[..., Range(low, high)]` must lie in.

  Attributes:
    low: the least.
    high: the largest.
    below: whether numbers must stay below `high`.
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
    """Returns what a number outside should be; a limit of the machine only if it is passed."""
    if self.high < LARGEST:
      return f'from {self.low} to {"below " if self.below else ""}{self.high}'
    return f'at most {self.high}' if self.high < value < math.inf else f'at least {self.low}'


Count = Annotated[int, Range(1, LARGEST)]
CountOrZero = Annotated[int, Range(0, LARGEST)]
Fraction = Annotated[float, Range(0.0, 1.0)]
Rate = Annotated[float, Range(0.0, 1.0, below=True)]  # at 1 nothing would be left
NonNegative = Annotated[float, Range(0.0)]
Positive = Annotated[float, Range(1e-3)]
Layers = Annotated[int, Range(1, 1000)]  # far more than any model has; each is traced
LayersOrZero = Annotated[int, Range(0, 1000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # JAX's generator keeps 32 bits
Seconds = Annotated[float, Range(0.0, 1e8)]  # three years; timers have a limit
Triple = tuple[float, float, float]  # a number per channel


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
  """The crop of a training clip, the same in all of its frames."""

  kind: Literal['scale_jitter', 'inception'] = 'scale_jitter'
  # scale_jitter: frames are scaled so that their shorter side has this many pixels times a random
  # factor, never less than the crop needs, and then cropped.
  short_side: Count | None = None  # pixels; None = 8/7 of the crop's, 256 for 224 as in Scenic
  scale: tuple[NonNegative, NonNegative] = (0.9, 1.33)  # paper Table 7
  stretch: bool = True  # height and width are scaled by factors of their own, as in Scenic
  # inception (arXiv 1409.4842, section 6): a box of random area and shape.
  area: tuple[NonNegative, Fraction] = (0.08, 1.0)  # of the frame
  ratio: tuple[NonNegative, NonNegative] = (3 / 4, 4 / 3)  # width / height, relative to the clip's


@dataclasses.dataclass(frozen=True)
class ColorJitter:
  """Color jitter and color drop; strengths of DMVR, which the paper's recipes use."""

  probability: Fraction = 0.0  # of the jitter; the paper's 0.8 on Kinetics and Moments in Time
  brightness: Fraction = 32 / 255  # added or subtracted at most; 1 = from black to white
  saturation: tuple[NonNegative, NonNegative] = (0.6, 1.4)  # factors
  contrast: tuple[NonNegative, NonNegative] = (0.6, 1.4)  # factors
  hue: Fraction = 0.2  # at most, of the color circle in either direction
  drop: Fraction = 0.0  # fraction of gray clips; the paper's 0.1 on Kinetics and Moments in Time


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """Random operations one after the other (arXiv 1909.13719), see data/augmentation/."""

  layers: CountOrZero = 0  # operations; the paper's 2 on Epic-Kitchens and Something-Something
  # On a scale whose regular end is 10: the paper's 15 on Epic-Kitchens, 20 on Something-Something.
  magnitude: Annotated[float, Range(0.0, 30.0)] = 10.0
  # all: the 16 of TensorFlow models. scenic: without the five that move pixels, as Scenic does.
  operations: Literal['all', 'scenic'] = 'all'
  # Probability that a drawn operation is applied. 1: always, and 'no operation' is drawn as often
  # as any single one (TensorFlow models); below 1 an operation is always drawn (timm, with 0.5).
  probability: Fraction = 1.0
  # Pixels that move in from outside the image: mirror reflects it at its edge (TensorFlow models),
  # gray is 128 (timm).
  fill: Literal['mirror', 'gray'] = 'mirror'


@dataclasses.dataclass(frozen=True)
class RandomErasing:
  """Random erasing (arXiv 1708.04896) in VideoMAE's way; its sizes are those of timm."""

  probability: Fraction = 0.0  # VideoMAE fine-tunes with 0.25
  area: tuple[NonNegative, Fraction] = (0.02, 1 / 3)  # of the clip
  ratio: tuple[NonNegative, NonNegative] = (0.3, 1 / 0.3)  # height / width


@dataclasses.dataclass(frozen=True)
class Augment:
  """Augmentation of training clips; the defaults are what the paper does on every data set.

  All frames of a clip share one draw.
  """

  crop: TrainingCrop = TrainingCrop()
  # horizontal: mirrors half of all clips, as in the paper. swap_labels: a mirrored clip also takes
  # the label of the class whose name has left and right exchanged, for Something-Something.
  flip: Literal['horizontal', 'off', 'swap_labels'] = 'horizontal'
  rand_augment: RandAugment = RandAugment()
  color_jitter: ColorJitter = ColorJitter()
  random_erasing: RandomErasing = RandomErasing()
  # Clips of the same video next to each other in a batch (arXiv 1901.09335; VideoMAE fine-tunes
  # with 2). Epochs count clips: with k, an epoch has as many steps as with 1 but shows one video
  # in k, so that n epochs of VideoMAE are k * n of these.
  repeated_augmentation: Count = 1
  # One's own functions, each as 'module:name', called in this order on clips that have had all of
  # the above: (clip uint8 [F, H, W, 3], numpy Generator) -> clip of the same type and shape.
  custom: tuple[str, ...] = ()
