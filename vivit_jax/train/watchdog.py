# SPDX-License-Identifier: Apache-2.0
"""Ends a process that hangs: a device, a decoder, a disk or another host that never answers."""

import contextlib
import faulthandler
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from vivit_jax.data.timing import LOOK, AwakeClock
from vivit_jax.train import guard

# What compiles may take so many times as long as `config.faults.hang_timeout_seconds`.
COMPILING = 10.0


class Watchdog:
  """While entered, ends the process where the next thing expected does not come in time.

  It then writes the stacks of all threads to standard error and leaves with exit code 1. Nothing is
  cleaned up, since that could hang too: a save that was not complete is as if never begun, and the
  decoding processes end with this one. Time in which the process is stopped does not count.

  A thread that hangs with the interpreter's lock keeps all others from looking: then a process of
  its own, `guard`, has the stacks written and ends this one by SIGUSR2.
  """

  def __init__(self, seconds: float):
    """Takes the seconds for anything that is expected; 0 = no limit."""
    self._seconds = seconds
    self._clock = AwakeClock()
    self._awaited = ('', 0.0, math.inf)  # what, its seconds, when they are over
    self._closed = threading.Event()
    self._guard: subprocess.Popen | None = None

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      # chain: then the default action, which is to end.
      faulthandler.register(signal.SIGUSR2, file=_stderr(), all_threads=True, chain=True)
      self._guard = subprocess.Popen(
        [sys.executable, '-I', '-S', guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what a terminal sends to all is not for it
      )
      assert self._guard.stdin is not None
      os.set_blocking(self._guard.stdin.fileno(), False)
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._closed.set()
    if self._guard is not None:
      self._thread.join()
      assert self._guard.stdin is not None
      self._guard.stdin.close()
      self._guard.kill()
      self._guard.wait()
      faulthandler.unregister(signal.SIGUSR2)

  def expect(self, what: str, patience: float = 1.0) -> None:
    """Tells what has to come next, and that all before has come.

    Args:
      what: as the subject of a sentence.
      patience: factor for its seconds.
    """
    if not self._seconds:
      return
    seconds = self._seconds * patience
    self._awaited = (what, seconds, self._clock.seconds() + seconds)

  def series(self, what: str, heed: Callable[[], None]) -> Callable[[], None]:
    """Returns what to call before each of several things, the first of which compiles.

    Args:
      what: as for `expect`.
      heed: called too; leaves the series by what it raises.
    """
    patience = itertools.chain([COMPILING], itertools.repeat(1.0))

    def between() -> None:
      heed()
      self.expect(what, next(patience))

    return between

  def _watch(self) -> None:
    # Looks every tenth, since what comes next may be due earlier than what was awaited before.
    often = min(self._seconds / 10, LOOK)
    while not self._closed.wait(min(self._left(), often)):
      self._tell_guard()
      if self._left() == 0.0:
        self._end()

  def _tell_guard(self) -> None:
    assert self._guard is not None
    assert self._guard.stdin is not None
    with contextlib.suppress(OSError):  # it was killed or stopped; this thread watches on
      os.write(self._guard.stdin.fileno(), f'{1.2 * self._awaited[1] + 5:.1f}\n'.encode())

  def _left(self) -> float:
    return max(0.0, self._awaited[-1] - self._clock.seconds())

  def _end(self) -> None:
    what, seconds, _ = self._awaited
    faulthandler.dump_traceback(_stderr(), all_threads=True)
    print(
      f'vivit: error: {what} did not come within {seconds:g} s: the stacks above show where each '
      'thread hangs; the same command continues from the last checkpoint; was it only slow, give '
      f'more than --config.faults.hang_timeout_seconds={self._seconds:g}, or 0 for no limit',
      file=_stderr(),
      flush=True,
    )
    os._exit(1)


def _stderr() -> TextIO:
  assert sys.__stderr__ is not None
  return sys.__stderr__  # what is put in its place may be no file
