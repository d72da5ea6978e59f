# SPDX-License-Identifier: Apache-2.0
"""Time per stage of reading a clip; the code of each stage marks itself with `stage`.

`AwakeClock` does not advance while the process is stopped (Ctrl-Z, SIGSTOP, a frozen container).
"""

import contextlib
import threading
import time
from collections.abc import Iterator

STAGES = ('fetch', 'open', 'seek', 'decode', 'crop', 'augment', 'batch')

_NOTHING = contextlib.nullcontext()  # shared, because `stage` is called for every frame
_clock: 'Clock | None' = None


class Clock:
  """Sums the time of one thread in each stage, excluding nested stages.

  Attributes:
    cpu: CPU seconds of this thread, by stage.
    wall: wall-clock seconds, by stage.
  """

  def __init__(self) -> None:
    self.cpu: dict[str, float] = {}
    self.wall: dict[str, float] = {}
    self._inside: list[str] = []
    self._since = (0.0, 0.0)

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Attributes the time within the context to stage `name`."""
    self._settle()
    self._inside.append(name)
    try:
      yield
    finally:
      self._settle()
      self._inside.pop()

  def _settle(self) -> None:
    now = (time.thread_time(), time.perf_counter())
    if self._inside:
      name = self._inside[-1]
      self.cpu[name] = self.cpu.get(name, 0.0) + now[0] - self._since[0]
      self.wall[name] = self.wall.get(name, 0.0) + now[1] - self._since[1]
    self._since = now


def stage(name: str) -> contextlib.AbstractContextManager[None]:
  """Returns a context whose time is attributed to a stage of STAGES, if timings are collected."""
  return _NOTHING if _clock is None else _clock.stage(name)


@contextlib.contextmanager
def collect_timings() -> Iterator[Clock]:
  """Measures all stages of this process within the context; they must run in one thread."""
  global _clock
  _clock = Clock()
  try:
    yield _clock
  finally:
    _clock = None


LOOK = 0.5  # seconds; users of a clock must read it at least this often
GAP = 2.0  # seconds between two reads; any more counts as stopped time


class AwakeClock:
  """Sums the time between consecutive reads, but at most `GAP` seconds each."""

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._seconds, self._seen = 0.0, time.monotonic()

  def seconds(self) -> float:
    """Returns the seconds since the clock was created; thread-safe."""
    with self._lock:
      now = time.monotonic()
      self._seconds += min(now - self._seen, GAP)
      self._seen = now
      return self._seconds
