# SPDX-License-Identifier: Apache-2.0
"""Shared memory for the pixels of batches, reused when no longer referenced."""

import math
import mmap
import os
import weakref
from collections import deque

import numpy as np
from jaxtyping import UInt8

Place = tuple[int, int]  # number of the buffer (its file descriptor), and row in it


class Buffers:
  """A pool of buffers, each for one batch; it grows to the number in use at the same time.

  A buffer is reused once its array and all views of it have been garbage-collected. This covers
  JAX, which reads an array after `device_put` has returned (on CPUs, as long as the JAX array
  lives). A batch therefore never changes while the consumer holds it.

  The buffers are anonymous files (memfd). They use no space in /dev/shm and are freed with the last
  process that has them open, even if it is killed.
  """

  def __init__(self, shape: tuple[int, ...]):
    """Takes the shape of a batch, [B, F, H, W, 3]."""
    self._shape = shape
    self._maps: dict[int, mmap.mmap] = {}  # by number
    self._free: deque[int] = deque()

  def take(self) -> tuple[int, UInt8[np.ndarray, 'b f h w 3']]:
    """Returns the number of a free buffer and its uninitialized array."""
    number = self._free.popleft() if self._free else self._make()
    flat = np.frombuffer(self._maps[number], np.uint8, math.prod(self._shape))
    # Views of `flat` keep its base alive, not `flat` itself.
    weakref.finalize(flat.base, self._free.append, number).atexit = False
    return number, flat.reshape(self._shape)

  def row(self, place: Place) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns a row for writing; does not keep the buffer from being reused."""
    return rows(self._maps[place[0]], self._shape[1:])[place[1]]

  def close(self) -> None:
    """Closes the files; arrays that are still in use stay valid."""
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
