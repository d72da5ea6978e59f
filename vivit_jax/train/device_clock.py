# SPDX-License-Identifier: Apache-2.0
"""Notes when the devices have finished a step, while the main thread waits for data."""

import contextlib
import math
import queue
import threading
import time
import weakref
from typing import Any

Results = queue.SimpleQueue[Any]


class DeviceClock:
  """One thread waits for each step that is given to it, as long as this lives.

  A wait for data costs nothing until the devices have finished what they were given. The thread
  that waits for the data cannot see that moment, only whether it has passed once the data is there.
  """

  def __init__(self) -> None:
    self._results: Results = queue.SimpleQueue()
    self._given = 0  # steps
    self._finished = [(0, -math.inf)]  # steps, and when the last of them had finished
    threading.Thread(target=_follow, args=(self._results, self._finished), daemon=True).start()
    weakref.finalize(self, self._results.put, None)  # nobody joins: a hung step is the watchdog's

  def dispatched(self, result: Any) -> None:
    """Takes an array that the step makes that the devices have been given last."""
    self._given += 1
    self._results.put(result)

  def idle_since(self) -> float:
    """Returns when the devices had nothing left to do, as `time.monotonic`; inf: they have."""
    finished, when = self._finished[0]
    return when if finished == self._given else math.inf


def _follow(results: Results, finished: list[tuple[int, float]]) -> None:
  while (result := results.get()) is not None:
    with contextlib.suppress(Exception):  # reading the result raises it
      result.block_until_ready()
    finished[0] = finished[0][0] + 1, time.monotonic()
