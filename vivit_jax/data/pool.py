# SPDX-License-Identifier: Apache-2.0
"""Processes that may be sacrificed: one that crashes or hangs is replaced, and costs one task."""

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

STARTS = 3  # attempts to start a process in a row, before that counts as impossible
START_TIMEOUT_SECONDS = 60.0  # for one attempt
# Tasks, after which a process is replaced: what decoders free lies scattered, and the memory of a
# process grows by 1 kB a video, for as long as it lives.
LIFETIME = 10_000
AHEAD = 4  # tasks per process that `run_all` looks ahead


@dataclasses.dataclass(frozen=True)
class Lost:
  """Stands for the result of a task that ended its process, or was not done in time."""

  status: int | None  # exit status of the process, as `subprocess` gives it; None: not in time


@dataclasses.dataclass(order=True)
class _Entry:
  priority: int  # low ones first
  serial: int
  task: Any = dataclasses.field(compare=False)
  seconds: float = dataclasses.field(compare=False)


Outcome: TypeAlias = tuple[Any, Any]  # a task, and its result or Lost


class WorkerPool:
  """Processes that do tasks; used by one thread, which starts them, but for `wake`.

  When a process ends by itself, any of its tasks may be why, or none: somebody may have killed it.
  With `retry` each of them is tried once more, alone in a process; if that ends too, the task is
  lost. So which tasks are lost depends on nothing but the tasks. Without, the first is lost.

  Not pebble's pool: it breaks when a process is killed that waits for work, its processes share
  one lock that a killed one may hold for ever, and they know of no task before its turn.
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
    """Prepares what `start` starts.

    Args:
      work: what they do.
      count: of processes.
      depth: tasks that each is given at a time; 1 without `retry`.
      retry: whether a task that may have ended its process is tried once more.
      megabytes: that a process may take, beside what it starts with; None = any.
      advice: for when processes cannot be started.
    """
    self.tasks = count * depth  # that should be there for them to do, or some are idle
    self._count, self._depth, self._retry, self._advice = count, depth, retry, advice
    self._orders = os.memfd_create('vivit_orders')
    # A file, since every replacement needs it and a pipe could block on a process that starts.
    with open(os.dup(self._orders), 'wb') as file:
      pickle.dump(Orders(work, os.getpid(), megabytes), file)
    self._clock = AwakeClock()  # Ctrl-Z stops parent and processes alike
    self._selector = selectors.DefaultSelector()
    self._woken, self._wake = os.pipe()
    self._selector.register(self._woken, selectors.EVENT_READ, None)
    self._processes: list[Process] = []
    self._waiting: list[_Entry] = []  # a heap
    self._serial = itertools.count()
    self._suspects: deque[_Entry] = deque()  # to be tried once more, alone
    self._alone: set[int] = set()  # serials of those being tried so
    self._failed_starts = 0

  def start(self) -> None:
    """Starts the processes, which end with the calling thread."""
    for _ in range(self._count):
      self._add()

  def submit(self, task: Any, seconds: float, priority: int = 0) -> None:
    """Adds a task, which may take so long; never blocks."""
    heapq.heappush(self._waiting, _Entry(priority, next(self._serial), task, seconds))

  def results(self) -> list[Outcome]:
    """Waits for results or for `wake`, and returns what came; raises what the work raised.

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
      # What it has said meanwhile counts, if this thread was held up.
      if self._left(process) < 0 and not process.link.poll():
        found += self._overdue(process)
    return found

  def wake(self) -> None:
    """Ends the waiting of another thread in `results`."""
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
    """Gives out tasks, to the least busy first; returns results on behalf of those who died."""
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
        process.tasks.pop()  # it died before it saw that one
        if entry.serial in self._alone:
          self._alone.remove(entry.serial)
          self._suspects.append(entry)
        else:
          heapq.heappush(self._waiting, entry)
        return self._died(process)
    return []

  def _retiring(self) -> Process | None:
    """Returns the process that is finishing its last tasks; one at a time, others go on."""
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
    """Returns the seconds until the next look at the clock; None: no process is at work."""
    left = min(map(self._left, self._processes))
    return None if left == float('inf') else min(max(0.0, left), LOOK)

  def _left(self, process: Process) -> float:
    if process.ready and not process.tasks:
      return float('inf')
    limit = process.tasks[0].seconds if process.ready else START_TIMEOUT_SECONDS
    return process.since + limit - self._clock.seconds()

  def _died(self, process: Process) -> list[Outcome]:
    """Replaces a process that ended by itself; its tasks become suspects, or one is lost."""
    status = process.ended()
    self._replace(process)
    if not process.ready:
      self._cannot_start(ending(status))
    if process.tasks and (not self._retry or process.tasks[0].serial in self._alone):
      return [self._lose(process.tasks[0], status)]
    self._suspects += process.tasks
    return []

  def _overdue(self, process: Process) -> list[Outcome]:
    """Kills and replaces a hung process; its queued tasks are given out again."""
    self._replace(process)
    if not process.ready:
      self._cannot_start(f'was silent for {START_TIMEOUT_SECONDS:g} s')
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
        f'worker processes cannot be started ({STARTS} in a row; the last {how}): see what they '
        f'wrote above{self._advice}'
      )


def run_all(
  work: Work,
  tasks: Iterable[tuple[Any, float]],
  count: int,
  *,
  megabytes: int | None = None,
) -> Generator[Outcome, None, None]:
  """Yields tasks with their results, or Lost, as they are done; few are given out at a time.

  Args:
    work: see `WorkerPool`.
    tasks: and the seconds that each may take.
    count: of processes.
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


QUOTA = Path('/sys/fs/cgroup/cpu.max')  # of a container: microseconds of CPU time, and in how many


def cores() -> int:
  """Returns how many cores this process may use."""
  count = len(os.sched_getaffinity(0))
  with contextlib.suppress(OSError, ValueError):  # 'max': no quota
    time, period = map(int, QUOTA.read_text().split())
    count = min(count, -(-time // period))
  return count
