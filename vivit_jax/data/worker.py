# SPDX-License-Identifier: Apache-2.0
"""A worker process that may crash or hang: the code that runs in it, and the parent's handle.

It imports neither JAX nor grain, so it is ready half a second after its start.
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
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vivit_jax.data.timing import AwakeClock

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = 77  # exit status of a process that exceeded its memory limit
POLL_SECONDS = 0.02  # between two checks of the memory
END_TIMEOUT_SECONDS = 1.0  # for a process to end
# Ctrl-C, SIGHUP of a closed terminal, and a scheduler's SIGTERM or SIGUSR1 often reach all
# processes of a group; only the parent handles them.
PARENTS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
PROGRAM = 'import sys; from vivit_jax.data import worker; worker.main(*map(int, sys.argv[1:]))'


class Work:
  """Runs tasks in a process; it is pickled, as are tasks and results."""

  def start(self) -> None:
    """Called once per process, before all tasks."""

  def expect(self, task: Any) -> None:
    """Called when a task arrives, possibly long before it is run."""

  def __call__(self, task: Any) -> Any:
    """Runs a task and returns the result; an exception is re-raised in the parent."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Orders:
  """Setup data of a process."""

  work: Work
  parent: int  # process id
  megabytes: int | None  # memory limit in addition to the memory at start; None = no limit


def main(connection: int, orders: int) -> None:
  """Serves a connection until the parent closes it, ends, or kills this process.

  Args:
    connection: file descriptor of a socket. It receives tasks; it sends None when the process is
      ready, then (result, None) or (None, exception) for each task, in order.
    orders: file descriptor of the pickled Orders.
  """
  link = Connection(connection)
  # When the parent ends, this process must end too, even if it hangs holding the interpreter lock.
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  # Writing a core file of all buffers can take longer than replacing the process.
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  told: Orders = pickle.loads(mmap.mmap(orders, 0, prot=mmap.PROT_READ))
  if os.getppid() != told.parent:
    return
  if told.megabytes is not None:
    bound = _resident() + told.megabytes * 2**20
    threading.Thread(target=_watch_memory, args=(bound,), daemon=True).start()
  told.work.start()
  tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
  threading.Thread(target=_do_tasks, args=(link, told.work, tasks)).start()
  try:
    link.send(None)
    while True:
      task = link.recv()
      told.work.expect(task)
      tasks.put(task)
  except (EOFError, OSError):
    os._exit(0)


def _do_tasks(link: Connection, work: Work, tasks: 'queue.SimpleQueue[Any]') -> None:
  while True:
    task = tasks.get()
    answer: tuple[Any, Exception | None]
    try:
      answer = work(task), None
    except Exception as error:
      answer = None, _with_origin(error)
    try:
      link.send(answer)
    except OSError:
      os._exit(0)


def _with_origin(error: Exception) -> Exception:
  """Returns the exception with its traceback as a note, since pickling drops the traceback."""
  error.add_note('in a worker process:\n' + ''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError('\n'.join([repr(error), *error.__notes__]))
  return error


def _watch_memory(bound: int) -> None:
  # With an rlimit, allocations would fail, which decoders report as damaged files.
  while _resident() <= bound:
    time.sleep(POLL_SECONDS)
  os._exit(OUT_OF_MEMORY)


def _resident() -> int:
  """Returns the resident memory of this process in bytes."""
  return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


class WorkerDied(Exception):  # noqa: N818
  """The process has ended."""


class Process:
  """A child process; `multiprocessing` is not used because it imports the user's program again.

  Attributes:
    link: connection to the process, see `main`.
    ready: whether the process is ready.
    tasks: the parent's entries for tasks that were sent and not finished; it runs the first.
    done: number of finished tasks.
    since: start time of the current task, or of the process, by the clock.
  """

  def __init__(self, orders: int, clock: AwakeClock):
    """Starts the process, which ends with the calling thread.

    Args:
      orders: file descriptor of the pickled `Orders`.
      clock: for `since`.
    """
    self._clock = clock
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)  # inherited by the child
    try:
      with theirs:
        files = (theirs.fileno(), orders)
        self._child = subprocess.Popen(
          [sys.executable, '-P', '-c', PROGRAM, *map(str, files)],
          pass_fds=files,
          stdin=subprocess.DEVNULL,
          env={**os.environ, 'PYTHONPATH': os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)
    self.link = Connection(ours.detach())
    self.ready = False
    self.tasks: deque[Any] = deque()
    self.done = 0
    self.since = self._clock.seconds()

  def give(self, entry: Any, task: Any) -> None:
    """Sends a task and remembers the parent's `entry` for it; raises WorkerDied."""
    if not self.tasks:
      self.since = self._clock.seconds()
    self.tasks.append(entry)
    with self._or_died():
      self.link.send(task)

  def hear(self) -> Any:
    """Returns the next message of the process; raises WorkerDied."""
    with self._or_died():
      return self.link.recv()

  def answered(self) -> Any:
    """Marks the first task as finished and returns its entry."""
    self.done += 1
    self.since = self._clock.seconds()
    return self.tasks.popleft()

  def ended(self) -> int:
    """Waits for the process to end and returns its exit status as in `subprocess`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._child.wait(END_TIMEOUT_SECONDS)  # its connection closes slightly earlier
    return -signal.SIGKILL if self._child.returncode is None else self._child.returncode

  def kill(self) -> None:
    """Kills the process."""
    self._child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
      # A process in an uninterruptible system call ends later, but runs no more code.
      self._child.wait(END_TIMEOUT_SECONDS)
    self.link.close()

  @contextlib.contextmanager
  def _or_died(self):
    try:
      yield
    except (EOFError, OSError):
      raise WorkerDied from None


def signal_name(status: int) -> str | None:
  """Returns the signal of an exit status, e.g. 'SIGSEGV', or None."""
  if status >= 0:
    return None
  try:
    return signal.Signals(-status).name
  except ValueError:  # one of the real-time signals
    return f'signal {-status}'


def ending(status: int) -> str:
  """Returns a description of an exit status that completes 'the process ...'."""
  if status >= 0:
    return f'ended with exit status {status}'
  return f'crashed with signal {-status} ({signal_name(status)})'
