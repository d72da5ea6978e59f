# SPDX-License-Identifier: Apache-2.0
"""What asks a run to stop at the next step or batch, so that it has saved where it was."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, TextIO

from vivit_jax.distributed import hosts

# Of these a second one acts at once. The others come twice by themselves: from terminal and shell.
IMPATIENT = (signal.SIGINT, signal.SIGTERM)
# SIGHUP: the terminal is closed. SIGUSR1: SLURM says that the time is nearly over.
HEEDED = (*IMPATIENT, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(Exception):  # noqa: N818
  """A signal has come."""

  def __init__(self, by: signal.Signals):
    super().__init__(by.name)
    self.by = by


class StopRequest:
  """While entered, the first SIGINT or SIGTERM only sets `received`; a second one acts at once.

  SIGHUP and SIGUSR1 set it too, but a SIGHUP that is ignored (nohup) stays so. So does output that
  nobody takes any more, as SIGPIPE.
  """

  def __init__(self, ends_process: bool = False) -> None:
    """Prepares it.

    Args:
      ends_process: nothing is left to save once it is left without an error, and signals then
        change nothing, where otherwise they do again what they did before.
    """
    self.received: signal.Signals | None = None
    self._ends_process = ends_process
    self._before: dict[signal.Signals, Any] = {}
    self._streams: tuple[TextIO, TextIO] | None = None
    self._agreed: signal.Signals | None = None
    self._asked = 0

  def __enter__(self) -> 'StopRequest':
    # Of several processes JAX listens to SIGTERM, and tells all of them.
    several = hosts.processes() > 1
    for kind in HEEDED:
      ignored = kind == signal.SIGHUP and signal.getsignal(kind) == signal.SIG_IGN
      if not ignored and not (several and kind == signal.SIGTERM):
        self._before[kind] = signal.signal(kind, self._note)
    self._streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Guarded(stream, self) for stream in self._streams)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    sys.stdout.flush()
    assert self._streams is not None
    sys.stdout, sys.stderr = self._streams
    if self._ends_process and (kind is None or issubclass(kind, Stopped)):
      for heeded in HEEDED:
        signal.signal(heeded, signal.SIG_IGN)
    else:
      self._restore(*HEEDED)

  def heed(self) -> None:
    """Raises Interrupted where a signal has come."""
    by = self.agreed()
    if by is not None:
      raise Interrupted(by)

  def agreed(self) -> signal.Signals | None:
    """Returns the signal to stop for, if any; in the same call of all processes.

    They must make the same calls, one for each step or batch.
    """
    if hosts.processes() == 1:
      return self.received
    from jax.experimental import multihost_utils

    self._asked += 1
    if self._agreed is None and multihost_utils.reached_preemption_sync_point(self._asked):
      self._agreed = self.received or signal.SIGTERM
    return self._agreed

  def receive(self, kind: signal.Signals) -> None:
    """Notes the first request, and tells the other processes."""
    if self.received is None:
      self.received = kind
      if hosts.processes() > 1:
        os.kill(os.getpid(), signal.SIGTERM)

  def _note(self, number: int, frame: FrameType | None) -> None:
    kind = signal.Signals(number)
    self.receive(kind)
    if kind in IMPATIENT:
      self._restore(*IMPATIENT)

  def _restore(self, *kinds: signal.Signals) -> None:
    for kind in kinds:
      if kind in self._before:
        signal.signal(kind, self._before[kind])


class Guarded:
  """A standard stream; where it cannot be written any more, that is a request to stop.

  A pipe whose reader has gone, a full disk, the terminal of a connection that is closed: what
  follows goes nowhere, and nothing is raised in the middle of a step.
  """

  def __init__(self, stream: Any, stop: StopRequest):  # whatever stands in for sys.stdout
    self._stream, self._stop = stream, stop

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except OSError as error:
      self._lost(error)
      return len(text)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except OSError as error:
      self._lost(error)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def _lost(self, error: OSError) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, self._stream.fileno())  # also for what Python flushes at its end
    os.close(nowhere)
    self._stop.receive(signal.SIGPIPE)
    if self._stream.fileno() == sys.stdout.fileno():  # else there is nowhere to say it
      print(
        f'vivit: standard output cannot be written: {error.strerror}', file=sys.stderr, flush=True
      )


class Stopped(Exception):  # noqa: N818
  """A run that was asked to stop has saved its state and can be continued.

  Attributes:
    step: that it has done.
    by: the signal; SIGPIPE for output that could not be written.
    code: exit code: 0 where a scheduler asked (SIGTERM, SIGUSR1), else as shells number it, 128 and
      the signal.
  """

  def __init__(self, step: int, by: signal.Signals, evaluating: bool = False):
    where = f'at step {step}; the same command continues from there'
    if evaluating:
      where = 'in the final evaluation; training is complete, and the same command evaluates it'
    super().__init__(f'stopped by {by.name} {where}')
    self.step, self.by = step, by
    self.code = 0 if by in (signal.SIGTERM, signal.SIGUSR1) else 128 + by
