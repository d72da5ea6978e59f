# SPDX-License-Identifier: Apache-2.0
"""Reads damaged videos: frames that cannot be decoded are replaced by the nearest readable ones."""

from typing import Any

import numpy as np

from vivit_jax.data.video import diagnose
from vivit_jax.data.video.reader import DecodeError, VideoReader, View


class LenientReader(VideoReader):
  """A tolerant reader for prediction, where an approximate result is better than none.

  Training and testing use `VideoReader`, for which a damaged video is unreadable.

  Attributes:
    missing: number of requested frames that could not be decoded.
  """

  def __init__(self, *args: Any):
    """Opens the file; same arguments and exceptions as `VideoReader`."""
    super().__init__(*args)
    self.missing = 0
    self._error: DecodeError | None = None

  def _decode(self, run: list[int], view: View, found: dict[int, np.ndarray]) -> None:
    """Decodes the readable frames of a run."""
    rest = run
    while rest:
      try:
        super()._decode(rest, view, found)
        break
      except DecodeError as error:  # the rest was tried twice
        self._error = error
        break
      except diagnose.ERRORS as error:
        self._error = DecodeError(self._path, diagnose.reason(error))
        # In mp4, seeking to a key frame's decoding time lands at the previous key frame, which may
        # be the damaged one; seeking to its presentation time lands at the frame itself.
        self._keys = self._keys[:, [0, 0]]
        left = [i for i in rest if i not in found]
        # If nothing was decoded, drop the first remaining frame: the next try may then skip the
        # damaged frame or start after it.
        rest = left[1:] if left == rest else left

  def _complete(self, wanted: list[int], found: dict[int, np.ndarray]) -> None:
    """Replaces each missing frame by the nearest decoded one.

    Raises:
      DecodeError: no frame could be decoded.
    """
    there = np.array(sorted(found))
    missing = [i for i in wanted if i not in found]
    if self._error is not None and not found:
      raise self._error
    for i in missing:
      found[i] = found[int(there[np.abs(there - i).argmin()])]
    self.missing += len(missing)
