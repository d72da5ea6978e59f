# SPDX-License-Identifier: Apache-2.0
"""Reads damaged videos: the nearest frame that can be decoded stands in for one that cannot."""

from typing import Any

import numpy as np

from vivit_jax.data.video import diagnose
from vivit_jax.data.video.reader import DecodeError, VideoReader, View


class LenientReader(VideoReader):
  """A reader for answers about one video, which are worth more than none.

  Training and testing read with `VideoReader`: a damaged video is none of the data there.

  Attributes:
    missing: how many of the frames asked for could not be decoded.
  """

  def __init__(self, *args: Any):
    """Opens the file; arguments and errors are those of `VideoReader`."""
    super().__init__(*args)
    self.missing = 0
    self._error: DecodeError | None = None

  def _decode(self, run: list[int], view: View, found: dict[int, np.ndarray]) -> None:
    """Decodes what can be decoded of a run."""
    rest = run
    while rest:
      try:
        super()._decode(rest, view, found)
        break
      except DecodeError as error:  # those left were looked for twice
        self._error = error
        break
      except diagnose.ERRORS as error:
        self._error = DecodeError(self._path, diagnose.reason(error))
        # In mp4, seeking to when a key frame is decoded lands at the one before, perhaps the bad
        # one; to when it is shown, at itself.
        self._keys = self._keys[:, [0, 0]]
        left = [i for i in rest if i not in found]
        # The decoder fails at a frame, before it gives out the first of those left; without that
        # one it may leave out the bad frame, or start after it.
        rest = left[1:] if left == rest else left

  def _complete(self, wanted: list[int], found: dict[int, np.ndarray]) -> None:
    """Puts the nearest frame into the place of each that is missing.

    Raises:
      DecodeError: none of them could be decoded.
    """
    there = np.array(sorted(found))
    missing = [i for i in wanted if i not in found]
    if self._error is not None and not found:
      raise self._error
    for i in missing:
      found[i] = found[int(there[np.abs(there - i).argmin()])]
    self.missing += len(missing)
