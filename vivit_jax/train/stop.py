# SPDX-License-Identifier: Apache-2.0
"""Signals as a request to stop at the next step or batch, so that a run has saved where it was."""

import os
import signal
from types import FrameType, TracebackType

from vivit_jax.hosts import cluster


class Interrupted(Exception):  # noqa: N818
  """A signal has come."""

  def __init__(self, by: signal.Signals):
    super().__init__(by.name)
    self.by = by


class StopRequest:
  """While entered, the first SIGINT or SIGTERM only sets `received`; a second one acts at once."""

  def __init__(self) -> None:
    self.received: signal.Signals | None = None
    self._before: dict[signal.Signals, object] = {}
    self._agreed: signal.Signals | None = None
    self._asked = 0

  def __enter__(self) -> 'StopRequest':
    # Of several processes JAX listens to SIGTERM, and tells all of them.
    several = cluster.processes() > 1
    for kind in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
      self._before[kind] = signal.signal(kind, self._note)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._restore()

  def heed(self) -> None:
    """Raises Interrupted where a signal has come."""
    by = self.agreed()
    if by is not None:
      raise Interrupted(by)

  def agreed(self) -> signal.Signals | None:
    """Returns the signal to stop for, if any; in the same call of all processes.

    They must make the same calls, one for each step or batch.
    """
    if cluster.processes() == 1:
      return self.received
    from jax.experimental import multihost_utils

    self._asked += 1
    if self._agreed is None and multihost_utils.reached_preemption_sync_point(self._asked):
      self._agreed = self.received or signal.SIGTERM
    return self._agreed

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.received = signal.Signals(number)
    self._restore()
    if cluster.processes() > 1 and self.received == signal.SIGINT:
      os.kill(os.getpid(), signal.SIGTERM)

  def _restore(self) -> None:
    for kind, handler in self._before.items():
      signal.signal(kind, handler)  # type: ignore[arg-type]


class Stopped(Exception):  # noqa: N818
  """A run that was asked to stop has saved its state and can be continued."""

  def __init__(self, step: int, by: signal.Signals, evaluating: bool = False):
    where = f'at step {step}; the same command continues from there'
    if evaluating:
      where = 'in the final evaluation; training is complete, and the same command evaluates it'
    super().__init__(f'stopped by {by.name} {where}')
    self.step, self.by = step, by
