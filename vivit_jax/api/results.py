# SPDX-License-Identifier: Apache-2.0
"""What a model answers, as arrays and plain values."""

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
    values: float32; of one clip [D], [T, D] or [T, S, D] by level, of a whole video [rows, D] or
      [rows, S, D].
    seconds: of each row, from its first frame until its last is no longer shown; float64 [2] where
      there is one row, else [rows, 2].
  """

  values: NDArray[np.float32]
  seconds: NDArray[np.float64]

  def __repr__(self) -> str:
    return f'Features({list(self.values.shape)}, {_span(self.seconds)})'


@dataclasses.dataclass(frozen=True, repr=False)
class Attention:
  """Where a model looked in one clip.

  Attributes:
    map: how much each token counts, float32 [T, S]; sums to 1.
    grid: the same as [T, H, W]: S tokens are H rows of W.
    of: the label that the map is about; None: about none, see `Model.attention`.
    labels: (label, probability) of the most probable ones for this clip.
    seconds: of the clip, from its first frame until its last is no longer shown.
    frames: RGB as the model saw them, uint8 [F, height, width, 3].
    shown: seconds that each is shown.
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
    """The frames in gray under the map in color, RGB uint8 [F, height, width, 3], made larger."""
    return overlay(self.frames, self.grid)

  def mp4(self) -> bytes:
    """Returns the overlay as a video file, as long as the clip."""
    return as_mp4(self.overlay, self.shown)

  def png(self) -> bytes:
    """Returns a picture: a strip of frames above their overlays."""
    return as_png(self.frames, self.overlay)

  def _repr_png_(self) -> bytes:
    """What a notebook shows."""
    return self.png()

  def __repr__(self) -> str:
    of = '' if self.of is None else f' of {self.of!r}'
    start, end = self.seconds
    return f'Attention({list(self.map.shape)}{of}, {start:.2f} s to {end:.2f} s)'


@dataclasses.dataclass(frozen=True, repr=False)
class Timeline:
  """Labels over the time of one video.

  Attributes:
    segments: from when to when which label holds, of all heads, by their start.
    seconds: of each window, float64 [windows, 2].
    probabilities: per head, float64 [windows, classes].
    labels: names of each head's classes.
    duration: seconds of the video.
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
