# SPDX-License-Identifier: Apache-2.0
"""Memory for the pixels of batches that several processes see, used again when nobody looks."""

import math
import mmap
import os
import weakref
from collections import deque

import numpy as np
from jaxtyping import UInt8

Place = tuple[int, int]  # number of a buffer, which is its file descriptor; row in it


class Buffers:
  """As many buffers as are in use at the same time, each for one batch.

  A buffer is free when its array and everything made of it are gone. That covers JAX, which reads
  an array after `device_put` has returned: on CPUs for as long as its own array lives. So no
  consumer, however slow or greedy, sees a batch change.

  They are anonymous files: they need no room in /dev/shm, and end with the last process that has
  them open, however it ends.
  """

  def __init__(self, shape: tuple[int, ...]):
    """Takes the shape of a batch, [B, F, H, W, 3]."""
    self._shape = shape
    self._maps: dict[int, mmap.mmap] = {}  # by number
    self._free: deque[int] = deque()

  def take(self) -> tuple[int, UInt8[np.ndarray, 'b f h w 3']]:
    """Returns the number of a free buffer and its array, whose content is arbitrary."""
    number = self._free.popleft() if self._free else self._make()
    flat = np.frombuffer(self._maps[number], np.uint8, math.prod(self._shape))
    # Arrays made of `flat` refer to its base, not to it.
    weakref.finalize(flat.base, self._free.append, number).atexit = False
    return number, flat.reshape(self._shape)

  def row(self, place: Place) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns a row to be written to; does not keep its buffer from being used again."""
    return rows(self._maps[place[0]], self._shape[1:])[place[1]]

  def close(self) -> None:
    """Closes the files; arrays that were handed out stay."""
    for number in self._maps:
      os.close(number)
    self._maps = {}

  def __len__(self) -> int:
    return len(self._maps)

  def _make(self) -> int:
    number = os.memfd_create('vivit_batch')
    size = math.prod(self._shape)
    os.ftruncate(number, size)
    self._maps[number] = mmap.mmap(number, size)
    return number


def open_buffer(process: int, number: int) -> mmap.mmap:
  """Returns the memory of another process's buffer."""
  file = os.open(f'/proc/{process}/fd/{number}', os.O_RDWR)
  try:
    return mmap.mmap(file, 0)
  finally:
    os.close(file)


def rows(memory: mmap.mmap, shape: tuple[int, ...]) -> UInt8[np.ndarray, 'b f h w 3']:
  """Returns a buffer as an array of rows of the given shape."""
  return np.frombuffer(memory, np.uint8).reshape(-1, *shape)
