# SPDX-License-Identifier: Apache-2.0
"""Result types of the Python API."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vivit_jax.inference.overlay import as_mp4, as_png, overlay
from vivit_jax.inference.segments import Segment


@dataclasses.dataclass(frozen=True, repr=False)
class Features:
  """Features of one video.

  Attributes:
    values: float32; for one clip [D], [T, D] or [T, S, D] by level, for a whole video [rows, D] or
      [rows, S, D].
    seconds: start and end of each row, including the duration of its last frame; float64 [2] if
      there is one row, otherwise [rows, 2].
  """

  values: NDArray[np.float32]
  seconds: NDArray[np.float64]

  def __repr__(self) -> str:
    return f'Features({list(self.values.shape)}, {_span(self.seconds)})'


@dataclasses.dataclass(frozen=True, repr=False)
class Attention:
  """Attention map of one clip.

  Attributes:
    map: weight of each token, float32 [T, S]; sums to 1.
    grid: the same as [T, H, W], with S = H * W in row-major order.
    of: label of a gradient map; None for attention rollout, see `Model.attention`.
    labels: (label, probability) of the most probable labels for this clip.
    seconds: start and end of the clip, including the duration of its last frame.
    frames: the model's input frames in RGB, uint8 [F, height, width, 3].
    shown: duration of each frame in seconds.
  """

  map: NDArray[np.float32]
  grid: NDArray[np.float32]
  of: str | None
  labels: list[tuple[str, float]]
  seconds: tuple[float, float]
  frames: NDArray[np.uint8]
  shown: float

  @property
  def overlay(self) -> NDArray[np.uint8]:
    """Grayscale frames with the map in color on top, RGB uint8 [F, height, width, 3], enlarged."""
    return overlay(self.frames, self.grid)

  def mp4(self) -> bytes:
    """Returns the overlay as an mp4 file with the duration of the clip."""
    return as_mp4(self.overlay, self.shown)

  def png(self) -> bytes:
    """Returns an image with a strip of frames above their overlays."""
    return as_png(self.frames, self.overlay)

  def _repr_png_(self) -> bytes:
    """Display in notebooks."""
    return self.png()

  def __repr__(self) -> str:
    of = '' if self.of is None else f' of {self.of!r}'
    start, end = self.seconds
    return f'Attention({list(self.map.shape)}{of}, {start:.2f} s to {end:.2f} s)'


@dataclasses.dataclass(frozen=True, repr=False)
class Timeline:
  """Labels of one video over time.

  Attributes:
    segments: segments of all heads with label, start and end, sorted by start.
    seconds: start and end of each window, float64 [windows, 2].
    probabilities: per head, float64 [windows, classes].
    labels: class names of each head.
    duration: duration of the video in seconds.
  """

  segments: tuple[Segment, ...]
  seconds: NDArray[np.float64]
  probabilities: Mapping[str, NDArray[np.float64]]
  labels: Mapping[str, tuple[str, ...]]
  duration: float

  def __repr__(self) -> str:
    counts = f'{len(self.segments)} segments, {len(self.seconds)} windows'
    return f'Timeline({counts}, {self.duration:.2f} s)'


def _span(seconds: NDArray[np.float64]) -> str:
  return f'{seconds.min():.2f} s to {seconds.max():.2f} s'
