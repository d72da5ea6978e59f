# SPDX-License-Identifier: Apache-2.0
"""The model's input: which frames of a video, at which size, with which pixel values.

`Clip` is a config section. `Preprocessing` is the same information as read from a checkpoint,
where parts may be unknown.
"""

import dataclasses
from typing import Annotated, Literal

from vivit_jax.config.augment import Count, Range, Seconds, Triple
from vivit_jax.errors import ConfigError

# stride: frames are `stride` frames or `stride_seconds` apart. whole_video, whole_video_first: the
# video is divided into as many equal segments as a clip has frames, and each segment gives one
# frame. In training that frame is random; in testing it is the middle one (whole_video; TSN, arXiv
# 1608.00859, section 3.1; usual for Something-Something) or the first one (whole_video_first;
# VideoPrism's notebooks).
Sampling = Literal['stride', 'whole_video', 'whole_video_first']
# short_side: keeps the aspect ratio and resizes the shorter side to a given number of pixels, at
# least enough to cover the crop. whole_frame: resizes the whole frame to the crop size, which
# changes the aspect ratio.
Resize = Literal['short_side', 'whole_frame']
# area: crops a box of whole source pixels, and each output pixel is the mean of the source pixels
# it covers; computed on the decoded planes, the fastest. The others match PIL, torchvision and
# Hugging Face, with antialiasing: the frame is resized first, and then cropped at whole pixels.
Interpolation = Literal['area', 'bilinear', 'bicubic', 'lanczos']
Channels = Literal['rgb', 'bgr']

Deviation = Annotated[float, Range(1e-6, 1e6)]
HALF: Triple = (0.5, 0.5, 0.5)  # mean and std for the value range [-1, 1]


@dataclasses.dataclass(frozen=True)
class Clip:
  """Geometry and pixel values of one clip, the model's input."""

  frames: Count = 32
  stride: Count = 2  # in frames of the video
  # Seconds between frames, by timestamp, instead of a stride in frames: clips then have the same
  # duration at any frame rate.
  stride_seconds: Seconds | None = None
  sampling: Sampling = 'stride'
  height: Count = 224  # pixels
  width: Count = 224
  # The model's input is (pixel / 255 - mean) / std per channel; 0.5 and 0.5 give [-1, 1].
  mean: tuple[float, float, float] = HALF
  std: tuple[Deviation, Deviation, Deviation] = HALF
  resize: Resize = 'short_side'
  interpolation: Interpolation = 'area'  # for validation, testing and prediction

  @property
  def usual_short_side(self) -> int:
    """Default short side in pixels: 8/7 of the crop size, e.g. 256 for 224 as in Scenic."""
    return round(min(self.height, self.width) * 8 / 7)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """The input that the weights were trained on; None if the source does not specify it.

  Attributes:
    mean, std: the model's input is (pixel / 255 - mean) / std, per channel.
    channels: channel order.
    stride: distance between the frames of a clip, in frames of the video.
    short_side: pixels to which the shorter side is resized before the crop; see Source.short_side.
    stride_seconds, sampling: used instead of `stride`, as in Clip.
    resize, interpolation: as in Clip.
    views: number of temporal and spatial test views in the source's paper or code.
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
    """Returns the preprocessing of weights that were trained with this config section."""
    return cls(
      clip.mean, clip.std, stride=clip.stride, short_side=short_side,
      stride_seconds=clip.stride_seconds, sampling=clip.sampling, resize=clip.resize,
      interpolation=clip.interpolation,
    )  # fmt: skip

  def clip(self, frames: int, height: int, width: int) -> Clip:
    """Returns the equivalent config section.

    Args:
      frames: number of frames in a clip.
      height, width: crop size in pixels.
    """
    assert self.mean is not None
    assert self.std is not None
    stride = self.stride or Clip.stride
    return Clip(
      frames, stride, self.stride_seconds, self.sampling, height, width, self.mean, self.std,
      self.resize, self.interpolation,
    )  # fmt: skip


def of_range(low: Triple, high: Triple) -> tuple[Triple, Triple]:
  """Returns the mean and std that map pixel 0 to `low` and pixel 255 to `high`."""
  spreads = [b - a for a, b in zip(low, high, strict=True)]
  # 0.0 - a avoids negative zero.
  mean = tuple(0.0 - a / spread for a, spread in zip(low, spreads, strict=True))
  std = tuple(1 / spread for spread in spreads)
  return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def in_words(mean: Triple, std: Triple) -> str:
  """Returns mean and std as text; one number if all channels have the same value."""
  return f'mean {_short(mean)}, std {_short(std)}'


def _short(values: Triple) -> str:
  if len(set(values)) == 1:
    return f'{values[0]:.4g}'
  return f'({", ".join(f"{value:.4g}" for value in values)})'


def check_clip(clip: Clip) -> None:
  """Rejects contradicting settings for sampling frames."""
  if clip.stride_seconds is not None and clip.stride_seconds <= 0:
    raise ConfigError(f'config.clip.stride_seconds={clip.stride_seconds} must be above 0')
  if clip.stride_seconds is not None and clip.sampling != 'stride':
    raise ConfigError(
      f'config.clip.stride_seconds={clip.stride_seconds} has no effect with config.clip.sampling='
      f'{clip.sampling!r}, which spreads the frames over the whole video'
    )
