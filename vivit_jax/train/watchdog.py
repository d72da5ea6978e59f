# SPDX-License-Identifier: Apache-2.0
"""Ends a hung process, e.g. if a device, decoder, disk or other host does not respond."""

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

# A step that compiles may take this many times `config.faults.hang_timeout_seconds`.
COMPILING = 10.0


class Watchdog:
  """Within the context, ends the process if an expected event does not happen in time.

  It writes the stacks of all threads to standard error and exits with code 1. There is no cleanup,
  which could also hang: an unfinished save has no effect, and decoding processes end with their
  parent. Time in which the process is suspended does not count.

  One thread watches the whole run. It cannot run if another thread hangs while holding the
  interpreter lock; in that case the helper process `guard` ends this process with SIGUSR2, which
  writes the stacks.
  """

  def __init__(self, seconds: float):
    """Takes the time limit of an event in seconds; 0 means no limit."""
    self._seconds = seconds
    self._clock = AwakeClock()
    self._awaited = ('', 0.0, math.inf)  # event, its limit in seconds, its deadline
    self._closed = threading.Event()
    self._guard: subprocess.Popen | None = None

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      # chain: the default action follows, which ends the process.
      faulthandler.register(signal.SIGUSR2, file=_stderr(), all_threads=True, chain=True)
      self._guard = subprocess.Popen(
        [sys.executable, '-I', '-S', guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # signals of the terminal do not reach it
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
    """Sets the next expected event; the previous one has happened.

    Args:
      what: the event, as the subject of a sentence.
      patience: factor on the time limit.
    """
    if not self._seconds:
      return
    seconds = self._seconds * patience
    self._awaited = (what, seconds, self._clock.seconds() + seconds)

  def series(self, what: str, before_each: Callable[[], None]) -> Callable[[], None]:
    """Returns a function to call before each of several events; the first includes compilation.

    Args:
      what: as for `expect`.
      before_each: called first; an exception that it raises ends the series.
    """
    patience = itertools.chain([COMPILING], itertools.repeat(1.0))

    def expect_next() -> None:
      before_each()
      self.expect(what, next(patience))

    return expect_next

  def _watch(self) -> None:
    # Wakes up often, because the next event may have an earlier deadline.
    often = min(self._seconds / 10, LOOK)
    while not self._closed.wait(min(self._left(), often)):
      self._tell_guard()
      if self._left() == 0.0:
        self._end()

  def _tell_guard(self) -> None:
    assert self._guard is not None
    assert self._guard.stdin is not None
    with contextlib.suppress(OSError):  # the guard was killed or suspended; this thread continues
      os.write(self._guard.stdin.fileno(), f'{1.2 * self._awaited[1] + 5:.1f}\n'.encode())

  def _left(self) -> float:
    return max(0.0, self._awaited[-1] - self._clock.seconds())

  def _end(self) -> None:
    what, seconds, _ = self._awaited
    faulthandler.dump_traceback(_stderr(), all_threads=True)
    print(
      f'vivit: error: {what} did not come within {seconds:g} s: the stacks above show where each '
      'thread hangs; the same command continues from the last checkpoint; if only slow, give more '
      f'than --config.faults.hang_timeout_seconds={self._seconds:g}, or 0 for no limit',
      file=_stderr(),
      flush=True,
    )
    os._exit(1)


def _stderr() -> TextIO:
  assert sys.__stderr__ is not None
  return sys.__stderr__  # its replacement may have no file descriptor
