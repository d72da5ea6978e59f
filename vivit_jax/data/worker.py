# SPDX-License-Identifier: Apache-2.0
"""What a decoding process does until its trainer closes the connection, ends, or kills it.

It imports neither JAX nor grain, and so is decoding half a second after its start.

One decoding process, as its trainer sees it: can be given jobs, and killed at any moment.
"""

import contextlib
import ctypes
import dataclasses
import mmap
import os
import pickle
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

from vivit_jax.data.buffers import Buffers, rows
from vivit_jax.data.examples import Reader
from vivit_jax.data.jobs import Answer, Job, do, reading_ahead
from vivit_jax.data.timing import AwakeClock

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Orders:
  """What a worker is told once."""

  reader: Reader
  row: tuple[int, ...]  # shape of one row of a batch, [F, H, W, 3]
  parent: int  # process id


@dataclasses.dataclass(frozen=True)
class NewBuffer:
  """Announces a buffer, whose file follows."""

  number: int


def main(connection: int, orders: int) -> None:
  """Serves a connection.

  Args:
    connection: file descriptor of a socket: NewBuffer and Job come in, first True and then Answers
      or exceptions go out.
    orders: file descriptor of the pickled Orders.
  """
  link = Connection(connection)
  # The end of the trainer must end a decoder too that hangs with the interpreter's lock.
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  # Writing a core file of all buffers can take longer than replacing the process.
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  told: Orders = pickle.loads(mmap.mmap(orders, 0, prot=mmap.PROT_READ))
  if os.getppid() != told.parent:
    return
  reader, ahead = reading_ahead(told.reader)
  buffers: dict[int, mmap.mmap] = {}
  jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
  threading.Thread(target=_decode, args=(link, told.row, reader, buffers, jobs)).start()
  link.send(True)
  try:
    while True:
      message = link.recv()
      if isinstance(message, NewBuffer):
        file = recv_handle(link)
        buffers[message.number] = mmap.mmap(file, 0)
        os.close(file)
      else:
        if ahead is not None:
          ahead.start(message.attempt.index)
        jobs.put(message)
  except (EOFError, OSError):
    os._exit(0)


def _decode(
  link: Connection,
  row: tuple[int, ...],
  reader: Reader,
  buffers: dict[int, mmap.mmap],
  jobs: 'queue.SimpleQueue[Job]',
) -> None:
  while True:
    job = jobs.get()
    answer: Answer | Exception
    try:
      answer = do(job, reader, lambda place: rows(buffers[place[0]], row)[place[1]])
    except Exception as error:
      answer = _told(error)
    try:
      link.send(answer)
    except OSError:
      os._exit(0)


def _told(error: Exception) -> Exception:
  """Returns an error as it can be sent, with where it came from."""
  error.add_note('in a decoding process:\n' + ''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError('\n'.join([repr(error), *error.__notes__]))
  return error


PROGRAM = 'import sys; from vivit_jax.data import worker; worker.main(*map(int, sys.argv[1:]))'
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
