# SPDX-License-Identifier: Apache-2.0
"""Where decoded frames go: straight to their places in the result, in whatever order they come."""

import numpy as np
from jaxtyping import Shaped


class Found(dict[int, np.ndarray]):
  """Results by frame, each kept in its place of one array as it comes."""

  def __init__(self, order: list[int], into: np.ndarray | None):
    """Takes which frame stands in which place, and an array that may do."""
    super().__init__()
    self._order, self._array = order, into
    self._places = {frame: place for place, frame in reversed(list(enumerate(order)))}

  def __setitem__(self, frame: int, image: np.ndarray) -> None:
    shape = (len(self._order), *image.shape)
    if not self and (
      self._array is None or self._array.shape != shape or self._array.dtype != image.dtype
    ):
      self._array = np.empty(shape, image.dtype)
    assert self._array is not None
    if self._array.shape != shape:
      raise ValueError('frames differ in size')
    place = self._array[self._places[frame], ...]
    place[...] = image
    super().__setitem__(frame, place)

  def all(self) -> Shaped[np.ndarray, 'n ...']:
    """Returns the array, with the frames that are asked for more than once everywhere."""
    assert self._array is not None
    for place, frame in enumerate(self._order):
      if self._places[frame] != place:
        self._array[place] = self[frame]
    return self._array
