# SPDX-License-Identifier: Apache-2.0
"""All views of one video from one decode, prepared as a checkpoint wants them."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from vivit_jax.config.augment import Triple
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.crop import SpatialCrops
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.lenient import LenientReader
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.data.video.sampling import evaluation_clips


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How videos become what a model sees."""

  frames: int  # of a clip
  stride: int  # in frames of the video; see config.Clip for all three
  stride_from: Literal['argument', 'checkpoint', 'assumed']
  stride_seconds: float | None
  sampling: Literal['stride', 'whole_video']
  height: int  # pixels
  width: int
  short_side: int  # see SpatialCrops
  low: Triple  # what a pixel of 0 becomes, per channel
  high: Triple  # what 255 becomes
  channels: Literal['rgb', 'bgr']  # the order of low, high and of what the model sees
  temporal_views: int
  spatial_views: int

  @property
  def views(self) -> int:
    """Of each video."""
    return self.temporal_views * self.spatial_views

  @property
  def clip(self) -> Clip:
    """Which frames and pixels a view has."""
    return Clip(
      self.frames, self.stride, self.stride_seconds, self.sampling, self.height, self.width
    )

  def __str__(self) -> str:
    """One line that says all of it, what had to be assumed too."""
    stride = f'every {self.stride} frames' if self.stride > 1 else 'every frame'
    if self.stride_seconds is not None:
      stride = f'every {self.stride_seconds:g} s'
    if self.sampling == 'whole_video':
      stride = 'evenly from the whole video'
    if self.stride_from == 'assumed':
      stride += ' (assumed: the checkpoint does not say)'
    low, high = _values(self.low), _values(self.high)
    return (
      f'{self.temporal_views}x{self.spatial_views} views of {self.frames} frames, {stride}, '
      f'{self.height}x{self.width} pixels of a short side of {self.short_side}, '
      f'{self.channels} from {low} to {high}'
    )


@dataclasses.dataclass(frozen=True)
class Views:
  """All views of one video.

  Attributes:
    pixels: uint8 [T * S, F, H, W, 3], RGB, the crops of a clip next to each other.
    indices: of the frames that each clip shows, [T, F].
    frames: of the video, or of its span.
    seconds: from the first of them to the last.
    missing: frames of the views that cannot be decoded; the nearest of the others stand in.
  """

  pixels: UInt8[np.ndarray, 'v f h w 3']
  indices: Int64[np.ndarray, 't f']
  frames: int
  seconds: float
  missing: int


def read_all_views(video: Video, protocol: Protocol) -> Views:
  """Returns all views of a video; a frame that several views show is decoded and resized once.

  Raises:
    DecodeError: the video cannot be read, or none of the frames.
  """
  temporal, spatial = protocol.temporal_views, protocol.spatial_views
  crops = SpatialCrops(protocol.height, protocol.width, spatial, protocol.short_side)
  with (reader := LenientReader(video.path, video.start, video.end)):
    indices = evaluation_clips(reader.times, protocol.clip, temporal)
    pixels = read_clips(reader, indices, crops)
    return Views(pixels, indices, reader.frames, reader.seconds, reader.missing)


def read_clips(
  reader: VideoReader, indices: Int64[np.ndarray, 't f'], crops: SpatialCrops
) -> UInt8[np.ndarray, 'v f h w 3']:
  """Returns all crops of clips, uint8 [T * S, F, H, W, 3], the crops of a clip next to each other.

  Raises:
    DecodeError: the video cannot be read.
  """
  frames = reader.read(indices.reshape(-1), crops)  # [T * F, S, H, W, 3]
  clips = frames.reshape(*indices.shape, *frames.shape[1:]).swapaxes(1, 2)
  return np.ascontiguousarray(clips).reshape(-1, indices.shape[1], *frames.shape[2:])


def _values(channels: Triple) -> str:
  """Returns one number where all channels have the same."""
  if len(set(channels)) == 1:
    return f'{channels[0]:g}'
  return f'({", ".join(f"{value:.3g}" for value in channels)})'
