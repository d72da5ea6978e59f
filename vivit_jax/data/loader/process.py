# SPDX-License-Identifier: Apache-2.0
"""One decoding process, as its trainer sees it: can be given jobs, and killed at any moment."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle

from vivit_jax.awake import AwakeClock
from vivit_jax.data.loader.buffers import Buffers
from vivit_jax.data.loader.jobs import Job
from vivit_jax.data.loader.worker import NewBuffer

PROGRAM = (
  'import sys; from vivit_jax.data.loader import worker; worker.main(*map(int, sys.argv[1:]))'
)
PATIENCE = 1.0  # seconds for a process that ends to be gone


class Gone(Exception):  # noqa: N818
  """The process has ended."""


class Process:
  """A child process; not one of `multiprocessing`, which would import the user's program again.

  Attributes:
    link: what it says comes here: see `worker.main`.
    ready: whether it has started.
    jobs: given and not answered; it works on the first.
    done: jobs answered.
    since: when it began with that, or was started (by the clock).
  """

  def __init__(self, orders: int, clock: AwakeClock):
    """Starts it; must be called in a thread that lives longer than the process should.

    Args:
      orders: file descriptor of the pickled `worker.Orders`.
      clock: for `since`.
    """
    self._clock = clock
    ours, theirs = socket.socketpair()
    with theirs:
      files = (theirs.fileno(), orders)
      self._child = subprocess.Popen(
        [sys.executable, '-P', '-c', PROGRAM, *map(str, files)],
        pass_fds=files,
        stdin=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(p or os.getcwd() for p in sys.path)},
      )
    self.link = Connection(ours.detach())
    self.ready = False
    self.jobs: deque[Job] = deque()
    self.done = 0
    self.since = self._clock.seconds()
    self._buffers: set[int] = set()

  def give(self, job: Job, buffers: Buffers) -> None:
    """Sends a job; raises Gone."""
    if not self.jobs:
      self.since = self._clock.seconds()
    self.jobs.append(job)
    with self._or_gone():
      for number in {number for number, _ in job.places} - self._buffers:
        self.link.send(NewBuffer(number))
        send_handle(self.link, buffers.file(number), self._child.pid)
        self._buffers.add(number)
      self.link.send(job)

  def hear(self) -> object:
    """Returns the next thing that it says; raises Gone."""
    with self._or_gone():
      return self.link.recv()

  def answered(self) -> None:
    """Takes note that its first job is done."""
    self.jobs.popleft()
    self.done += 1
    self.since = self._clock.seconds()

  def ended(self) -> int:
    """Returns the exit status, as `subprocess` gives it, once it is Gone."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._child.wait(PATIENCE)  # its connection closed a little earlier
    return -signal.SIGKILL if self._child.returncode is None else self._child.returncode

  def kill(self) -> None:
    """Ends it whatever it does."""
    self._child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
      # A process in a system call that cannot be interrupted ends later, and runs no more code.
      self._child.wait(PATIENCE)
    self.link.close()

  @contextlib.contextmanager
  def _or_gone(self):
    try:
      yield
    except (EOFError, OSError):
      raise Gone from None


def ending(status: int) -> str:
  """Returns what an exit status says, as the end of a sentence on the process."""
  if status >= 0:
    return f'ended with exit status {status}'
  return f'crashed with signal {-status} ({signal.Signals(-status).name})'
