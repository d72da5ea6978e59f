# SPDX-License-Identifier: Apache-2.0
"""Streams the frames of a video of any length: each is decoded once and none is kept."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64, Shaped

from vivit_jax.data.video import diagnose
from vivit_jax.data.video.frames import Crops
from vivit_jax.data.video.reader import DecodeError, VideoReader


class VideoStream(VideoReader):
  """A VideoReader that can also stream frames."""

  def __enter__(self) -> 'VideoStream':
    return self

  def stream(
    self, indices: Int64[np.ndarray, ' n'], transform: Crops | Callable[[np.ndarray], np.ndarray]
  ) -> Iterator[tuple[int, Shaped[np.ndarray, '...']]]:
    """Yields (index, transformed frame) for each index, in one pass over the file.

    Args:
      indices: strictly ascending, from 0 to `frames` - 1.
      transform: as in `read`.

    Raises:
      DecodeError: a frame is missing or damaged.
    """
    wanted = iter(indices.tolist())
    index = next(wanted, None)
    if index is None:
      return
    view = self._renderer.viewer(self._stream.sample_aspect_ratio, transform)
    target = self._target(self._offset + index)
    try:
      for time, frame in self._frames(self._start() if target is None else target):
        due = self._times[self._offset + index]
        if time is None or time < due:
          continue
        if time > due or frame.is_corrupt:
          self._refuse([index])
        yield index, view(frame)
        index = next(wanted, None)
        if index is None:
          return
    except diagnose.ERRORS as error:
      raise DecodeError(self._path, diagnose.reason(error)) from error
    self._refuse([index])
