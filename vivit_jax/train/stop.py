# SPDX-License-Identifier: Apache-2.0
"""Signals as a request to stop at the next step, so that a stopped run has saved where it was."""

import signal
from types import FrameType, TracebackType


class StopRequest:
  """While entered, the first SIGINT or SIGTERM only sets `received`; a second one acts at once."""

  def __init__(self) -> None:
    self.received: signal.Signals | None = None
    self._before: dict[signal.Signals, object] = {}

  def __enter__(self) -> 'StopRequest':
    for kind in (signal.SIGINT, signal.SIGTERM):
      self._before[kind] = signal.signal(kind, self._note)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._restore()

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.received = signal.Signals(number)
    self._restore()

  def _restore(self) -> None:
    for kind, handler in self._before.items():
      signal.signal(kind, handler)  # type: ignore[arg-type]


class Stopped(Exception):  # noqa: N818
  """A run that was asked to stop has saved its state and can be continued."""

  def __init__(self, step: int, by: signal.Signals):
    super().__init__(f'stopped by {by.name} at step {step}; the same command continues from there')
    self.step, self.by = step, by
