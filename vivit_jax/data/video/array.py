# SPDX-License-Identifier: Apache-2.0
"""Frames in memory, with the same interface as a video file."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from vivit_jax.data.timing import stage
from vivit_jax.data.video.found import Found
from vivit_jax.data.video.frames import Crops
from vivit_jax.data.video.stream import VideoStream

FPS = 25.0  # assumed for frames without timestamps


class FrameArray(VideoStream):
  """A `VideoStream` over an array; there is no file to open or that could be damaged.

  Attributes:
    labels: class ids as in `manifest.Video`, if known.
    missing: number of frames that could not be decoded, always 0; see `LenientReader`.
  """

  def __init__(
    self, frames: UInt8[np.ndarray, 'n h w 3'], fps: float = FPS, labels: tuple[int, ...] = ()
  ):
    """Takes at least one RGB frame, with values from 0 to 255.

    Args:
      frames: all frames of the video.
      fps: frames per second; has no effect on clips with a stride in frames.
      labels: see the class attributes.
    """
    self._array, self.labels, self.missing = frames, labels, 0
    self.frames = len(frames)
    self.times = np.arange(len(frames)) / fps
    self.seconds = float(self.times[-1])

  def close(self) -> None:
    """Does nothing; there is no file to close."""

  def read(
    self,
    indices: Shaped[np.ndarray, ' n'],
    transform: Crops | Callable[[UInt8[np.ndarray, 'h w 3']], np.ndarray] = lambda frame: frame,
  ) -> Shaped[np.ndarray, 'n ...']:
    """Returns frames in the order of the indices; see `VideoReader.read`."""
    if indices.size == 0 or indices.min() < 0 or indices.max() >= self.frames:
      raise IndexError(f'indices {indices} are not in [0, {self.frames})')
    found = Found(indices.tolist())
    with stage('crop'):
      for i in np.unique(indices).tolist():
        found[i] = transform(self._array[i])
      return found.all()

  def stream(
    self, indices: Int64[np.ndarray, ' n'], transform: Crops | Callable[[np.ndarray], np.ndarray]
  ) -> Iterator[tuple[int, Shaped[np.ndarray, '...']]]:
    """Yields (index, transformed frame) for each index; see `VideoStream.stream`."""
    for index in indices.tolist():
      yield index, transform(self._array[index])

  def verify(self) -> None:
    """Does nothing; there is nothing to decode."""


def wrong_frames(frames: object) -> str | None:
  """Returns a description of `frames` if they are not uint8 [N, H, W, 3], otherwise None."""
  if not isinstance(frames, np.ndarray):
    return type(frames).__name__
  if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size:
    return None
  return f'{frames.dtype} {list(frames.shape)}'
