# SPDX-License-Identifier: Apache-2.0
"""Where the time of one clip goes: the code that does the work says which stage it is in.

`AwakeClock` stands still while this process is stopped (Ctrl-Z, SIGSTOP, a frozen container).
"""

import contextlib
import threading
import time
from collections.abc import Iterator

STAGES = ('fetch', 'open', 'seek', 'decode', 'crop', 'augment', 'batch')

_NOTHING = contextlib.nullcontext()  # one for all: frames pass several stages
_clock: 'Clock | None' = None


class Clock:
  """Adds up the time that one thread spends in each stage, not counting stages within it.

  Attributes:
    cpu: seconds of this thread on a processor, by stage.
    wall: seconds that passed.
  """

  def __init__(self) -> None:
    self.cpu: dict[str, float] = {}
    self.wall: dict[str, float] = {}
    self._inside: list[str] = []
    self._since = (0.0, 0.0)

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Counts for `name` what happens within."""
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
  """Returns a context that counts for a stage of STAGES while somebody measures."""
  return _NOTHING if _clock is None else _clock.stage(name)


@contextlib.contextmanager
def collect_timings() -> Iterator[Clock]:
  """Measures all stages that this process enters meanwhile; they must be of one thread."""
  global _clock
  _clock = Clock()
  try:
    yield _clock
  finally:
    _clock = None


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
