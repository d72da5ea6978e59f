# SPDX-License-Identifier: Apache-2.0
"""Collects decoded frames, in any order, directly into the result array."""

import numpy as np
from jaxtyping import Shaped


class Found(dict[int, np.ndarray]):
  """Results by frame index, each written to its position in one array when set."""

  def __init__(self, order: list[int]):
    """Takes the frame index of each position."""
    super().__init__()
    self._order = order
    self._array: np.ndarray | None = None  # allocated with the first result
    self._places = {frame: place for place, frame in reversed(list(enumerate(order)))}

  def __setitem__(self, frame: int, image: np.ndarray) -> None:
    if self._array is None:
      self._array = np.empty((len(self._order), *image.shape), image.dtype)
    if self._array.shape[1:] != image.shape:
      raise ValueError('frames differ in size')
    place = self._array[self._places[frame], ...]
    place[...] = image
    super().__setitem__(frame, place)

  def all(self) -> Shaped[np.ndarray, 'n ...']:
    """Returns the array; frames that were requested several times are repeated."""
    assert self._array is not None
    for place, frame in enumerate(self._order):
      if self._places[frame] != place:
        self._array[place] = self[frame]
    return self._array
