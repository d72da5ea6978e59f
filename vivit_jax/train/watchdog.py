# SPDX-License-Identifier: Apache-2.0
"""Ends a process that hangs: a device, a decoder, a disk or another host that never answers."""

import faulthandler
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

# What compiles may take so many times as long as `config.faults.hang_seconds`.
COMPILING = 10.0


class Watchdog:
  """While entered, ends the process where the next thing expected does not come in time.

  It then writes the stacks of all threads to standard error and leaves with exit code 1. Nothing is
  cleaned up, since that could hang too: a save that was not complete is as if never begun, and the
  decoding processes end with this one.
  """

  def __init__(self, seconds: float):
    """Takes the seconds for anything that is expected; 0 = no limit."""
    self._seconds = seconds
    self._awaited = ('', 0.0, math.inf)  # what, its seconds, when they are over
    self._closed = threading.Event()

  def __enter__(self) -> 'Watchdog':
    if self._seconds:
      threading.Thread(target=self._watch, daemon=True).start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._closed.set()
    faulthandler.cancel_dump_traceback_later()

  def expect(self, what: str, patience: float = 1.0) -> None:
    """Tells what has to come next, and that all before has come.

    Args:
      what: as the subject of a sentence.
      patience: factor for its seconds.
    """
    if not self._seconds:
      return
    seconds = self._seconds * patience
    self._awaited = (what, seconds, time.monotonic() + seconds)
    # For what hangs with the interpreter's lock, when no thread of Python's can say more.
    faulthandler.dump_traceback_later(1.2 * seconds + 5, exit=True, file=_stderr())

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
    while not self._closed.wait(min(self._left(), self._seconds / 10)):
      if self._left() == 0.0:
        self._end()

  def _left(self) -> float:
    return max(0.0, self._awaited[-1] - time.monotonic())

  def _end(self) -> None:
    what, seconds, _ = self._awaited
    faulthandler.dump_traceback(_stderr(), all_threads=True)
    print(
      f'vivit: error: {what} did not come within {seconds:g} s: the stacks above show where each '
      'thread hangs; the same command continues from the last checkpoint; was it only slow, give '
      f'more than --config.faults.hang_seconds={self._seconds:g}, or 0 for no limit',
      file=_stderr(),
      flush=True,
    )
    os._exit(1)


def _stderr() -> TextIO:
  assert sys.__stderr__ is not None
  return sys.__stderr__  # what is put in its place may be no file
