# SPDX-License-Identifier: Apache-2.0
"""One process that may be sacrificed: what runs in it, and how its parent sees it.

It imports neither JAX nor grain, and so is at work half a second after its start.
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
OUT_OF_MEMORY = 77  # exit status of a process that took more memory than it may
POLL_SECONDS = 0.02  # from one look at the memory to the next
END_TIMEOUT_SECONDS = 1.0  # for a process that ends to be gone
# Ctrl-C, a closed terminal's SIGHUP and a scheduler's SIGTERM or SIGUSR1 often reach all processes
# of a group: it is the parent who answers them.
PARENTS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
PROGRAM = 'import sys; from vivit_jax.data import worker; worker.main(*map(int, sys.argv[1:]))'


class Work:
  """What processes do with tasks; it is pickled, and so are tasks and results."""

  def start(self) -> None:
    """Is called once in each process, before all tasks."""

  def expect(self, task: Any) -> None:
    """Is called as a task comes, which may be long before its turn."""

  def __call__(self, task: Any) -> Any:
    """Returns the result of a task; what it raises ends the parent's work."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Orders:
  """What a process is told once."""

  work: Work
  parent: int  # process id
  megabytes: int | None  # that it may take, beside what it starts with; None = any


def main(connection: int, orders: int) -> None:
  """Serves a connection until the parent closes it, ends, or kills this process.

  Args:
    connection: file descriptor of a socket: tasks come in; None goes out once this process is
      ready, then (result, None) or (None, exception) for each task, in order.
    orders: file descriptor of the pickled Orders.
  """
  link = Connection(connection)
  # The end of the parent must end a process too that hangs with the interpreter's lock.
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
  """Returns an error as it can be sent, with where it came from."""
  error.add_note('in a worker process:\n' + ''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError('\n'.join([repr(error), *error.__notes__]))
  return error


def _watch_memory(bound: int) -> None:
  # A limit of the system would make allocations fail, which decoders take for damaged files.
  while _resident() <= bound:
    time.sleep(POLL_SECONDS)
  os._exit(OUT_OF_MEMORY)


def _resident() -> int:
  """Returns the bytes of memory that this process holds."""
  return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


class WorkerDied(Exception):  # noqa: N818
  """The process has ended."""


class Process:
  """A child process; not one of `multiprocessing`, which would import the user's program again.

  Attributes:
    link: what it says comes here: see `main`.
    ready: whether it has started.
    tasks: given and not answered, whatever the parent keeps of them; it works on the first.
    done: tasks answered.
    since: when it began with that, or was started (by the clock).
  """

  def __init__(self, orders: int, clock: AwakeClock):
    """Starts it; must be called in a thread that lives longer than the process should.

    Args:
      orders: file descriptor of the pickled `Orders`.
      clock: for `since`.
    """
    self._clock = clock
    ours, theirs = socket.socketpair()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)  # a child inherits that
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
    """Sends a task, of which the parent keeps `entry`; raises WorkerDied."""
    if not self.tasks:
      self.since = self._clock.seconds()
    self.tasks.append(entry)
    with self._or_died():
      self.link.send(task)

  def hear(self) -> Any:
    """Returns the next thing that it says; raises WorkerDied."""
    with self._or_died():
      return self.link.recv()

  def answered(self) -> Any:
    """Takes note that its first task is done, and returns what is kept of it."""
    self.done += 1
    self.since = self._clock.seconds()
    return self.tasks.popleft()

  def ended(self) -> int:
    """Returns the exit status, as `subprocess` gives it, once it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._child.wait(END_TIMEOUT_SECONDS)  # its connection closed a little earlier
    return -signal.SIGKILL if self._child.returncode is None else self._child.returncode

  def kill(self) -> None:
    """Ends it whatever it does."""
    self._child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
      # A process in a system call that cannot be interrupted ends later, and runs no more code.
      self._child.wait(END_TIMEOUT_SECONDS)
    self.link.close()

  @contextlib.contextmanager
  def _or_died(self):
    try:
      yield
    except (EOFError, OSError):
      raise WorkerDied from None


def signal_name(status: int) -> str | None:
  """Returns the signal that an exit status tells of, e.g. 'SIGSEGV'; None: it tells of none."""
  if status >= 0:
    return None
  try:
    return signal.Signals(-status).name
  except ValueError:  # one of the real-time signals
    return f'signal {-status}'


def ending(status: int) -> str:
  """Returns what an exit status says, as the end of a sentence on the process."""
  if status >= 0:
    return f'ended with exit status {status}'
  return f'crashed with signal {-status} ({signal_name(status)})'
