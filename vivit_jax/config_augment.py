# SPDX-License-Identifier: Apache-2.0
"""Settings of the training augmentation, the section `augment` of an experiment."""

import dataclasses
from typing import Literal

from vivit_jax.config_types import Count, Fraction, NonNegative


@dataclasses.dataclass(frozen=True)
class TrainingCrop:
  """Which part of the frames a training clip shows, the same in all of them."""

  kind: Literal['scale_jitter', 'inception'] = 'scale_jitter'
  # scale_jitter: frames are scaled until their shorter side has this many pixels, times a random
  # factor, and then cropped; never so far down that the crop would not fit.
  short_side: Count | None = None  # pixels; None = 8/7 of the crop's, 256 for 224 as in Scenic
  scale: tuple[NonNegative, NonNegative] = (0.9, 1.33)  # paper Table 7
  stretch: bool = True  # height and width are scaled by factors of their own, as in Scenic
  # inception (arXiv 1409.4842, section 6): a box of random area and shape.
  area: tuple[NonNegative, Fraction] = (0.08, 1.0)  # of the frame
  ratio: tuple[NonNegative, NonNegative] = (3 / 4, 4 / 3)  # width / height, relative to the clip's


@dataclasses.dataclass(frozen=True)
class Augment:
  """How training clips are varied; the defaults are what the paper does on every data set."""

  crop: TrainingCrop = TrainingCrop()
  flip: Literal['paper', 'off'] = 'paper'  # paper: half of all clips, whatever they show
