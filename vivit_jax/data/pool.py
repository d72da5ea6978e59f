# SPDX-License-Identifier: Apache-2.0
"""Worker processes that may crash or hang: they are replaced, and only one task is lost."""

import contextlib
import dataclasses
import heapq
import itertools
import os
import pickle
import selectors
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from vivit_jax.data.timing import LOOK, AwakeClock
from vivit_jax.data.worker import Orders, Process, Work, WorkerDied, ending
from vivit_jax.errors import DataError

STARTS = 3  # failed starts of a process in a row before giving up
START_TIMEOUT_SECONDS = 60.0  # for one start
# Tasks after which a process is replaced: because of memory fragmentation by decoders, a process
# grows by 1 kB per video.
LIFETIME = 10_000
AHEAD = 4  # tasks per process that `run_all` submits ahead


@dataclasses.dataclass(frozen=True)
class Lost:
  """Result of a task whose process ended or that exceeded its time limit."""

  status: int | None  # exit status as in `subprocess`; None = time limit exceeded


@dataclasses.dataclass(order=True)
class _Entry:
  priority: int  # lower ones first
  serial: int
  task: Any = dataclasses.field(compare=False)
  seconds: float = dataclasses.field(compare=False)


Outcome: TypeAlias = tuple[Any, Any]  # a task, and its result or Lost


class WorkerPool:
  """Processes that run tasks; all methods but `wake` are called from one thread.

  When a process ends unexpectedly, the cause can be any of its tasks, or an outside kill. With
  `retry`, each of its tasks is retried once, alone in a process, and counts as lost if that process
  ends too. Which tasks are lost then depends only on the tasks. Without `retry`, the first task is
  lost.

  pebble's pool is not used: it breaks when an idle process is killed, its processes share a lock
  that a killed process may hold forever, and tasks are not known to a process ahead of time.
  """

  def __init__(
    self,
    work: Work,
    count: int,
    *,
    depth: int = 1,
    retry: bool = False,
    megabytes: int | None = None,
    advice: str = '',
  ):
    """Prepares the pool; `start` starts the processes.

    Args:
      work: runs the tasks.
      count: number of processes.
      depth: tasks queued per process; 1 without `retry`.
      retry: whether tasks of a process that ended are retried once.
      megabytes: memory limit per process, in addition to its memory at start; None = no limit.
      advice: appended to the error message if processes cannot be started.
    """
    self.tasks = count * depth  # submitted tasks that keep all processes busy
    self._count, self._depth, self._retry, self._advice = count, depth, retry, advice
    self._orders = os.memfd_create('vivit_orders')
    # A file, since every replacement process reads it, and a pipe could block.
    with open(os.dup(self._orders), 'wb') as file:
      pickle.dump(Orders(work, os.getpid(), megabytes), file)
    self._clock = AwakeClock()  # Ctrl-Z stops parent and processes alike
    self._selector = selectors.DefaultSelector()
    self._woken, self._wake = os.pipe()
    self._selector.register(self._woken, selectors.EVENT_READ, None)
    self._processes: list[Process] = []
    self._waiting: list[_Entry] = []  # a heap
    self._serial = itertools.count()
    self._suspects: deque[_Entry] = deque()  # to be retried alone
    self._alone: set[int] = set()  # serials of tasks being retried alone
    self._failed_starts = 0

  def start(self) -> None:
    """Starts the processes; they end with the calling thread."""
    for _ in range(self._count):
      self._add()

  def submit(self, task: Any, seconds: float, priority: int = 0) -> None:
    """Adds a task with a time limit in seconds; never blocks."""
    heapq.heappush(self._waiting, _Entry(priority, next(self._serial), task, seconds))

  def results(self) -> list[Outcome]:
    """Waits for results or for `wake`, and returns the results; re-raises exceptions of the work.

    Raises:
      DataError: processes cannot be started.
    """
    found = self._feed()
    for key, _ in self._selector.select(0 if found else self._patience()):
      if key.data is None:
        os.read(self._woken, 4096)
      else:
        found += self._hear(key.data)
    for process in list(self._processes):
      # A result that has arrived counts, even if this thread was late to read it.
      if self._left(process) < 0 and not process.link.poll():
        found += self._overdue(process)
    return found

  def wake(self) -> None:
    """Wakes a thread that is waiting in `results`."""
    os.write(self._wake, b'.')

  def close(self) -> None:
    """Kills the processes."""
    for process in self._processes:
      process.kill()
    self._selector.close()
    for file in (self._orders, self._woken, self._wake):
      os.close(file)

  def _add(self) -> None:
    process = Process(self._orders, self._clock)
    self._processes.append(process)
    self._selector.register(process.link, selectors.EVENT_READ, process)

  def _replace(self, process: Process) -> None:
    self._selector.unregister(process.link)
    self._processes.remove(process)
    process.kill()
    self._add()

  def _feed(self) -> list[Outcome]:
    """Sends tasks to the least busy processes; returns results for processes that have died."""
    old = self._retiring()
    ready = [(len(p.tasks), k) for k, p in enumerate(self._processes) if p.ready and p is not old]
    heapq.heapify(ready)
    processes = list(self._processes)
    while ready and (self._waiting or self._suspects):
      busy, k = heapq.heappop(ready)
      process = processes[k]
      if busy and process.tasks[0].serial in self._alone:
        continue
      if self._suspects and not busy:
        entry = self._suspects.popleft()
        self._alone.add(entry.serial)
      elif self._waiting and busy < self._depth:
        entry = heapq.heappop(self._waiting)
        heapq.heappush(ready, (busy + 1, k))
      else:
        continue
      try:
        process.give(entry, entry.task)
      except WorkerDied:
        process.tasks.pop()  # the process died before it received the task
        if entry.serial in self._alone:
          self._alone.remove(entry.serial)
          self._suspects.append(entry)
        else:
          heapq.heappush(self._waiting, entry)
        return self._died(process)
    return []

  def _retiring(self) -> Process | None:
    """Returns the process that is due for replacement and gets no new tasks; one at a time."""
    old = next((p for p in self._processes if p.done >= LIFETIME), None)
    if old is None or not all(p.ready for p in self._processes):
      return None
    if not old.tasks:
      self._replace(old)
    return old

  def _hear(self, process: Process) -> list[Outcome]:
    try:
      message = process.hear()
    except WorkerDied:
      return self._died(process)
    self._failed_starts = 0
    if message is None:
      process.ready = True
      return []
    result, error = message
    if error is not None:
      raise error
    entry = process.answered()
    self._alone.discard(entry.serial)
    return [(entry.task, result)]

  def _patience(self) -> float | None:
    """Returns the seconds until the next check for time limits, or None if all are idle."""
    left = min(map(self._left, self._processes))
    return None if left == float('inf') else min(max(0.0, left), LOOK)

  def _left(self, process: Process) -> float:
    if process.ready and not process.tasks:
      return float('inf')
    limit = process.tasks[0].seconds if process.ready else START_TIMEOUT_SECONDS
    return process.since + limit - self._clock.seconds()

  def _died(self, process: Process) -> list[Outcome]:
    """Replaces a process that ended unexpectedly; its tasks are to be retried, or one is lost."""
    status = process.ended()
    self._replace(process)
    if not process.ready:
      self._cannot_start(ending(status))
    if process.tasks and (not self._retry or process.tasks[0].serial in self._alone):
      return [self._lose(process.tasks[0], status)]
    self._suspects += process.tasks
    return []

  def _overdue(self, process: Process) -> list[Outcome]:
    """Kills and replaces a hung process; its queued tasks are submitted again."""
    self._replace(process)
    if not process.ready:
      self._cannot_start(f'did not respond for {START_TIMEOUT_SECONDS:g} s')
      return []
    first, *others = process.tasks
    for entry in others:
      heapq.heappush(self._waiting, entry)
    return [self._lose(first, None)]

  def _lose(self, entry: _Entry, status: int | None) -> Outcome:
    self._alone.discard(entry.serial)
    return entry.task, Lost(status)

  def _cannot_start(self, how: str) -> None:
    self._failed_starts += 1
    if self._failed_starts == STARTS:
      raise DataError(
        f'worker processes cannot be started ({STARTS} in a row; the last {how}): see their '
        f'output above{self._advice}'
      )


def run_all(
  work: Work,
  tasks: Iterable[tuple[Any, float]],
  count: int,
  *,
  megabytes: int | None = None,
) -> Generator[Outcome, None, None]:
  """Yields tasks with their results, or Lost, as they finish; reads `tasks` lazily.

  Args:
    work: see `WorkerPool`.
    tasks: tasks with their time limits in seconds.
    count: number of processes.
    megabytes: see `WorkerPool`.
  """
  pool = WorkerPool(work, count, megabytes=megabytes)
  waiting, pending = iter(tasks), 0
  try:
    pool.start()
    while True:
      for task, seconds in itertools.islice(waiting, AHEAD * count - pending):
        pool.submit(task, seconds)
        pending += 1
      if not pending:
        return
      for outcome in pool.results():
        pending -= 1
        yield outcome
  finally:
    pool.close()


QUOTA = Path('/sys/fs/cgroup/cpu.max')  # of a container: CPU time and period, microseconds


def cores() -> int:
  """Returns the number of cores that this process may use."""
  count = len(os.sched_getaffinity(0))
  with contextlib.suppress(OSError, ValueError):  # 'max': no quota
    time, period = map(int, QUOTA.read_text().split())
    count = min(count, -(-time // period))
  return count
