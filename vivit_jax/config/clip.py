# SPDX-License-Identifier: Apache-2.0
"""What a model sees of a video: which frames, at which size, as which numbers.

`Clip` is the section of an experiment. `Preprocessing` is the same as a checkpoint tells it, where
parts may be unknown.
"""

import dataclasses
from typing import Annotated, Literal

from vivit_jax.config.augment import Count, Range, Seconds, Triple
from vivit_jax.errors import ConfigError

# stride: frames `stride` or `stride_seconds` apart. The others take one frame from each of as many
# equal parts of the video as a clip has frames: in testing the middle one (whole_video; TSN, arXiv
# 1608.00859, section 3.1; usual for Something-Something) or the first (whole_video_first; the
# notebooks of VideoPrism). In training it is a random one for both.
Sampling = Literal['stride', 'whole_video', 'whole_video_first']
# short_side: frames keep their shape and are scaled until the shorter side has a number of pixels,
# at least what covers the crop. whole_frame: all of a frame is scaled to the crop's size, which
# changes its shape.
Resize = Literal['short_side', 'whole_frame']
# area: a mean of the source pixels that a pixel covers, of a box of whole source pixels, on the
# decoded planes: the fastest. The others are those of PIL, torchvision and Hugging Face, with
# antialiasing: a frame is resized first and whole pixels of the result are cut out.
Interpolation = Literal['area', 'bilinear', 'bicubic', 'lanczos']
Channels = Literal['rgb', 'bgr']

Deviation = Annotated[float, Range(1e-6, 1e6)]
HALF: Triple = (0.5, 0.5, 0.5)  # mean and deviation of the value range [-1, 1]


@dataclasses.dataclass(frozen=True)
class Clip:
  """One view of a video, as the model sees it."""

  frames: Count = 32
  stride: Count = 2  # in frames of the source
  # Seconds between frames, by their timestamps, instead of a stride in frames: clips last equally
  # long whatever the frame rate.
  stride_seconds: Seconds | None = None
  sampling: Sampling = 'stride'
  height: Count = 224  # pixels
  width: Count = 224
  # A model sees (pixel / 255 - mean) / std, per channel; 0.5 and 0.5 are the range [-1, 1].
  mean: tuple[float, float, float] = HALF
  std: tuple[Deviation, Deviation, Deviation] = HALF
  resize: Resize = 'short_side'
  interpolation: Interpolation = 'area'  # of validation, testing and prediction

  @property
  def usual_short_side(self) -> int:
    """Pixels of frames' shorter side unless configured: 256 for 224, as in Scenic."""
    return round(min(self.height, self.width) * 8 / 7)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What the weights expect of a video; None where the source does not say.

  Attributes:
    mean, std: the model sees (pixel / 255 - mean) / std, per channel.
    channels: their order.
    stride: between the frames of a clip.
    short_side: pixels to which the shorter side is resized before the crop; see Source.short_side.
    stride_seconds, sampling: instead of `stride`, as in Clip.
    resize, interpolation: as in Clip.
    views: temporal and spatial views of the test in the source's paper or program.
  """

  mean: Triple | None = HALF
  std: Triple | None = HALF
  channels: Channels = 'rgb'
  stride: int | None = None
  short_side: int | None = None
  stride_seconds: float | None = None
  sampling: Sampling = 'stride'
  resize: Resize = 'short_side'
  interpolation: Interpolation = 'area'
  views: tuple[int, int] | None = None

  @classmethod
  def of(cls, clip: Clip, short_side: int) -> 'Preprocessing':
    """Returns what the weights expect that were trained with a section of an experiment."""
    return cls(
      clip.mean, clip.std, stride=clip.stride, short_side=short_side,
      stride_seconds=clip.stride_seconds, sampling=clip.sampling, resize=clip.resize,
      interpolation=clip.interpolation,
    )  # fmt: skip

  def clip(self, frames: int, height: int, width: int) -> Clip:
    """Returns the section of an experiment that says the same.

    Args:
      frames: of a clip.
      height, width: of a crop, pixels.
    """
    assert self.mean is not None
    assert self.std is not None
    stride = self.stride or Clip.stride
    return Clip(
      frames, stride, self.stride_seconds, self.sampling, height, width, self.mean, self.std,
      self.resize, self.interpolation,
    )  # fmt: skip


def of_range(low: Triple, high: Triple) -> tuple[Triple, Triple]:
  """Returns the mean and deviation of a value range: what pixels of 0 and of 255 become."""
  spreads = [b - a for a, b in zip(low, high, strict=True)]
  # 0.0: no negative zero.
  mean = tuple(0.0 - a / spread for a, spread in zip(low, spreads, strict=True))
  std = tuple(1 / spread for spread in spreads)
  return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def in_words(mean: Triple, std: Triple) -> str:
  """Returns mean and deviation for a line of text; one number where all channels have the same."""
  return f'mean {_short(mean)}, std {_short(std)}'


def _short(values: Triple) -> str:
  if len(set(values)) == 1:
    return f'{values[0]:.4g}'
  return f'({", ".join(f"{value:.4g}" for value in values)})'


def check_clip(clip: Clip) -> None:
  """Refuses two ways of choosing frames at once."""
  if clip.stride_seconds is not None and clip.stride_seconds <= 0:
    raise ConfigError(f'config.clip.stride_seconds={clip.stride_seconds} must be above 0')
  if clip.stride_seconds is not None and clip.sampling != 'stride':
    raise ConfigError(
      f'config.clip.stride_seconds={clip.stride_seconds} has no meaning for config.clip.sampling='
      f'{clip.sampling!r}, whose frames lie as far apart as the video is long'
    )
