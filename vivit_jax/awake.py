# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still while this process is stopped (Ctrl-Z, SIGSTOP, a frozen container)."""

import threading
import time

LOOK = 0.5  # seconds after which, at the latest, whoever has a clock must look at it again
GAP = 2.0  # what two looks may be apart before the rest counts as stopped; a busy machine is late


class AwakeClock:
  """Adds up the machine's seconds, but of those between two looks at most `GAP`."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._seconds, self._seen = 0.0, time.monotonic()

  def seconds(self) -> float:
    """Returns the seconds since the clock was made; any thread may look."""
    with self._lock:
      now = time.monotonic()
      self._seconds += min(now - self._seen, GAP)
      self._seen = now
      return self._seconds
