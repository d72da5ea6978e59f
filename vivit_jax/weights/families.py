# SPDX-License-Identifier: Apache-2.0
"""Families of encoders with their preprocessing, its source, and the license of the weights."""

import dataclasses
from fractions import Fraction
from typing import Any

from vivit_jax.config.augment import Triple
from vivit_jax.config.clip import HALF, Preprocessing
from vivit_jax.config.schema import usual_views

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Family:
  """One family of encoders.

  Attributes:
    title: name for messages.
    wants: preprocessing of the published weights, except `short_side`.
    short_side: shorter side of frames before the crop, as a ratio to the crop size, rounded down to
      pixels; None = Clip.usual_short_side, or the resize rule does not use it.
    frames, size: clip length and crop size of the published base model, or the usual ones.
    source: source of `wants`.
    license: license of the published weights.
    commercial: whether the license permits commercial use.
    class_default: default mean and std of Hugging Face's processor class; None if they equal those
      of `wants`.
  """

  title: str
  wants: Preprocessing
  short_side: Fraction | None
  frames: int
  size: int
  source: str
  license: str
  commercial: bool = True
  class_default: tuple[Triple, Triple] | None = None

  def preprocessing(self, height: int, width: int) -> Preprocessing:
    """Returns the preprocessing of the weights for crops of this size in pixels."""
    if self.short_side is None:
      return self.wants
    return dataclasses.replace(self.wants, short_side=int(min(height, width) * self.short_side))

  def settings(self, frames: int | None = None, size: int | None = None) -> dict[str, Any]:
    """Returns settings for the preprocessing of the weights, for use with config.update.

    Args:
      frames: frames per clip; None = those of the published model.
      size: side of square crops in pixels; None = that of the published model.
    """
    frames, size = frames or self.frames, size or self.size
    wants = self.preprocessing(size, size)
    temporal, spatial = usual_views(wants)
    return {
      'clip': dataclasses.asdict(wants.clip(frames, size, size)),
      'evaluate': {
        'temporal_views': temporal, 'spatial_views': spatial, 'short_side': wants.short_side,
      },
    }  # fmt: skip

  @property
  def normalization(self) -> tuple[Triple, Triple]:
    """Mean and std of the published weights."""
    assert self.wants.mean is not None
    assert self.wants.std is not None
    return self.wants.mean, self.wants.std

  @property
  def notice(self) -> str | None:
    """Message to print when weights without permission for commercial use are loaded, or None."""
    if self.commercial:
      return None
    return f'{self.title}: the published weights are {self.license}, not for commercial use'


FAMILIES = {
  'vivit': Family(
    'ViViT',
    # As prepared by Hugging Face, whose files do not have the stride.
    Preprocessing(interpolation='bilinear'),
    None,
    frames=32,
    size=224,
    source='Scenic: projects/vivit/configs/kinetics400 (zero_centering, min_resize 256, crop 224)',
    license='Apache-2.0',
    # (pixel / 127.5 - 1 - 0.5) / 0.5: the range [-3, 1].
    class_default=((0.75, 0.75, 0.75), (0.25, 0.25, 0.25)),
  ),
  'videomae': Family(
    'VideoMAE',
    Preprocessing(IMAGENET_MEAN, IMAGENET_STD, stride=4, interpolation='bilinear', views=(5, 3)),
    Fraction(1),
    frames=16,
    size=224,
    source='MCG-NJU/VideoMAE: kinetics.py (mean, std, short_side_size), scripts/kinetics (5 x 3)',
    license='CC-BY-NC 4.0',
    commercial=False,
    class_default=(HALF, HALF),
  ),
  'timesformer': Family(
    'TimeSformer',
    Preprocessing(
      (0.45, 0.45, 0.45),
      (0.225, 0.225, 0.225),
      stride=32,
      interpolation='bilinear',
      views=(1, 3),
    ),
    Fraction(1),
    frames=8,
    size=224,
    source='facebookresearch/TimeSformer: config/defaults.py (DATA.MEAN, STD), 8x32 with 1 x 3',
    license='CC-BY-NC 4.0',
    commercial=False,
    class_default=(IMAGENET_MEAN, IMAGENET_STD),
  ),
  'vjepa2': Family(
    'V-JEPA 2',
    Preprocessing(IMAGENET_MEAN, IMAGENET_STD, stride=4, interpolation='bilinear', views=(2, 3)),
    Fraction(256, 224),
    frames=16,
    size=256,
    source='facebookresearch/vjepa2: evals/video_classification_frozen (292 for 256), SSv2 probe',
    license='MIT (parts Apache-2.0)',
  ),
  'videoprism': Family(
    'VideoPrism',
    Preprocessing(
      (0.0, 0.0, 0.0),
      (1.0, 1.0, 1.0),
      sampling='whole_video_first',
      resize='whole_frame',
      interpolation='lanczos',
      views=(1, 1),
    ),
    None,
    frames=16,
    size=288,
    source="google-deepmind/videoprism: notebooks (mediapy's resize to 288 x 288, to_float01)",
    license='CC-BY 4.0',
  ),
  'image_vit': Family(
    'image ViT',
    Preprocessing(),
    None,
    frames=1,
    size=224,
    source='google-research/vision_transformer: input_pipeline.py (value range [-1, 1]; AugReg)',
    license='Apache-2.0',
  ),
}
