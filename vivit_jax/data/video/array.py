# SPDX-License-Identifier: Apache-2.0
"""Frames that are in memory already, read as those of a file are."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from vivit_jax.data.timing import stage
from vivit_jax.data.video.found import Found
from vivit_jax.data.video.frames import Crops
from vivit_jax.data.video.stream import VideoStream

FPS = 25.0  # of frames without a clock


class FrameArray(VideoStream):
  """A `VideoStream` of an array: nothing is opened, and nothing can be damaged.

  Attributes:
    labels: ids of its classes as in `manifest.Video`, where whoever gave the frames knows them.
    missing: frames that could not be decoded: none, see `LenientReader`.
  """

  def __init__(
    self, frames: UInt8[np.ndarray, 'n h w 3'], fps: float = FPS, labels: tuple[int, ...] = ()
  ):
    """Takes frames, RGB from 0 to 255, at least one of at least one pixel.

    Args:
      frames: of the whole video.
      fps: frames per second; clips with a stride in frames are the same for any.
      labels: see the class.
    """
    self._array, self.labels, self.missing = frames, labels, 0
    self.frames = len(frames)
    self.times = np.arange(len(frames)) / fps
    self.seconds = float(self.times[-1])

  def close(self) -> None:
    """Has nothing to close."""

  def read(
    self,
    indices: Shaped[np.ndarray, ' n'],
    transform: Crops | Callable[[UInt8[np.ndarray, 'h w 3']], np.ndarray] = lambda frame: frame,
  ) -> Shaped[np.ndarray, 'n ...']:
    """Returns frames in the order asked for; see `VideoReader.read`."""
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
    """Yields (index, transform's result) of each frame asked for; see `VideoStream.stream`."""
    for index in indices.tolist():
      yield index, transform(self._array[index])

  def verify(self) -> None:
    """Has nothing to verify."""


def wrong_frames(frames: object) -> str | None:
  """Returns what is there instead of the frames of a video, uint8 [N, H, W, 3]; None: nothing."""
  if not isinstance(frames, np.ndarray):
    return type(frames).__name__
  if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size:
    return None
  return f'{frames.dtype} {list(frames.shape)}'
