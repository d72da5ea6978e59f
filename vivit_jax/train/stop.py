# SPDX-License-Identifier: Apache-2.0
"""Stops a run at the next step or batch after a signal, so that its state can be saved."""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, TextIO

from vivit_jax.distributed import hosts
from vivit_jax.files import discard_output

# A second signal of these ends the run at once. The others arrive twice anyway, from the terminal
# and from the shell.
TWICE_ACTS_AT_ONCE = (signal.SIGINT, signal.SIGTERM)
# SIGHUP: the terminal was closed. SIGUSR1: SLURM warns that the time limit is near.
HANDLED = (*TWICE_ACTS_AT_ONCE, signal.SIGHUP, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818
  """A signal stops the run; the code that catches this saves the state and sets `step`.

  Attributes:
    by: the signal; SIGPIPE if the output could not be written.
    step: the last completed step, which is saved; None during the final evaluation.
    code: exit code: 0 for requests of a scheduler (SIGTERM, SIGUSR1), otherwise 128 + the signal
      number, as in shells.
  """

  def __init__(self, by: signal.Signals):
    super().__init__(by)
    self.by = by
    self.step: int | None = None
    self.code = 0 if by in (signal.SIGTERM, signal.SIGUSR1) else 128 + by

  def __str__(self) -> str:
    where = f'at step {self.step}; the same command continues from there'
    if self.step is None:
      where = 'in the final evaluation; training is complete, and the same command evaluates it'
    return f'stopped by {self.by.name} {where}'


class PreemptionHandler:
  """Within the context, a first SIGINT or SIGTERM sets `received`; a second one ends the run.

  SIGHUP and SIGUSR1 also set it, but an ignored SIGHUP (nohup) stays ignored. If standard output
  cannot be written any more, it is set to SIGPIPE.
  """

  def __init__(self, ends_process: bool = False) -> None:
    """Prepares the handler.

    Args:
      ends_process: whether the process ends afterwards. If so, signals are ignored after an exit
        without an error; otherwise their previous handlers are restored.
    """
    self.received: signal.Signals | None = None
    self._ends_process = ends_process
    self._before: dict[signal.Signals, Any] = {}
    self._streams: tuple[TextIO, TextIO] | None = None
    self._agreed: signal.Signals | None = None
    self._asked = 0

  def __enter__(self) -> 'PreemptionHandler':
    # With several processes, JAX handles SIGTERM and notifies all of them.
    several = hosts.processes() > 1
    for kind in HANDLED:
      ignored = kind == signal.SIGHUP and signal.getsignal(kind) == signal.SIG_IGN
      if not ignored and not (several and kind == signal.SIGTERM):
        self._before[kind] = signal.signal(kind, self._handle)
    self._streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (GuardedStream(stream, self) for stream in self._streams)
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    sys.stdout.flush()
    assert self._streams is not None
    sys.stdout, sys.stderr = self._streams
    if self._ends_process and (kind is None or issubclass(kind, Stopped)):
      for handled in HANDLED:
        signal.signal(handled, signal.SIG_IGN)
    else:
      self._restore(*HANDLED)

  def raise_if_stopped(self) -> None:
    """Raises Stopped after a signal, at the same call in all processes.

    All processes must call it for the same steps or batches.
    """
    if hosts.processes() == 1:
      self._agreed = self.received
    else:
      from jax.experimental import multihost_utils

      self._asked += 1
      if self._agreed is None and multihost_utils.reached_preemption_sync_point(self._asked):
        self._agreed = self.received or signal.SIGTERM
    if self._agreed is not None:
      raise Stopped(self._agreed)

  def receive(self, kind: signal.Signals) -> None:
    """Records the first request and passes it on to the other processes."""
    if self.received is None:
      self.received = kind
      if hosts.processes() > 1:
        os.kill(os.getpid(), signal.SIGTERM)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    kind = signal.Signals(number)
    self.receive(kind)
    if kind in TWICE_ACTS_AT_ONCE:
      self._restore(*TWICE_ACTS_AT_ONCE)

  def _restore(self, *kinds: signal.Signals) -> None:
    for kind in kinds:
      if kind in self._before:
        signal.signal(kind, self._before[kind])


class GuardedStream:
  """A standard stream that requests a stop if it cannot be written any more.

  If the reader of a pipe has exited, the disk is full, or the terminal was closed, further output
  is discarded instead of raising an exception in the middle of a step.
  """

  def __init__(self, stream: Any, stop: PreemptionHandler):  # Any: a stand-in for sys.stdout
    self._stream, self._stop = stream, stop

  def write(self, text: str) -> int:
    try:
      return self._stream.write(text)
    except OSError as error:
      self._discard(error)
      return len(text)

  def flush(self) -> None:
    try:
      self._stream.flush()
    except OSError as error:
      self._discard(error)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def _discard(self, error: OSError) -> None:
    discard_output(self._stream.fileno())
    self._stop.receive(signal.SIGPIPE)
    if self._stream.fileno() == sys.stdout.fileno():  # otherwise standard error itself is closed
      print(
        f'vivit: standard output cannot be written: {error.strerror}', file=sys.stderr, flush=True
      )
