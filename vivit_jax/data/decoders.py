# SPDX-License-Identifier: Apache-2.0
"""Decodes in processes; one that crashes or hangs is replaced, and costs a video, not the run.

Decodes in threads of the trainer: nothing to start, nothing in between, and no protection.
"""

import heapq
import itertools
import os
import pickle
import queue
import selectors
import signal
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from vivit_jax.data.buffers import Buffers
from vivit_jax.data.examples import Reader
from vivit_jax.data.jobs import DEPTH, QUEUE, Answer, Job, do, reading_ahead
from vivit_jax.data.timing import LOOK, AwakeClock
from vivit_jax.data.worker import Gone, Orders, Process, ending
from vivit_jax.errors import DataError

STARTS = 3  # attempts to start a process in a row, before that counts as impossible
START_SECONDS = 60.0  # for one attempt
# Jobs, after which a process is replaced: what decoders free lies scattered, and the memory of a
# process grows by 1 kB a video, for as long as it lives.
LIFETIME = 10_000


class Processes:
  """See `Decoders`.

  When a process ends by itself, any of its videos may be why, or none: somebody may have killed it.
  Each of them is tried once more, alone in a process; if that ends too, the video counts as
  unreadable. So which videos do depends on nothing but the videos.
  """

  def __init__(
    self, reader: Reader, buffers: Buffers, row: tuple[int, ...], count: int, timeout: float
  ):
    """Prepares what `start` starts.

    Args:
      reader: sent to the processes.
      buffers: where pixels go.
      row: shape of one of their rows, [F, H, W, 3].
      count: of processes.
      timeout: seconds for one video.
    """
    self._depth = QUEUE if reader.manifest.contents is None else DEPTH
    self.jobs = count * self._depth
    self._buffers, self._count, self._timeout = buffers, count, timeout
    self._orders = os.memfd_create('vivit_orders')
    # A file, since every replacement needs it and a pipe could block on a process that starts.
    with open(os.dup(self._orders), 'wb') as file:
      pickle.dump(Orders(reader, row, os.getpid()), file)
    self._clock = AwakeClock()  # Ctrl-Z stops decoders and trainer alike
    self._selector = selectors.DefaultSelector()
    self._woken, self._wake = os.pipe()
    self._selector.register(self._woken, selectors.EVENT_READ, None)
    self._processes: list[Process] = []
    self._waiting: list[tuple[int, int, Job]] = []  # a heap, by ticket
    self._serial = itertools.count()
    self._suspects: deque[Job] = deque()  # to be tried once more, alone
    self._alone: set[int] = set()  # tickets being tried so
    self._failed_starts = 0

  def start(self) -> None:
    """Starts the processes, which end with the calling thread."""
    # Ctrl-C, a closed terminal's SIGHUP and a scheduler's SIGTERM or SIGUSR1 often reach all
    # processes of a group: it is the trainer who answers them, and its decoders inherit that they
    # don't.
    signal.pthread_sigmask(
      signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    )
    for _ in range(self._count):
      self._add()

  def submit(self, job: Job) -> None:
    """Adds a job; never blocks."""
    heapq.heappush(self._waiting, (job.ticket, next(self._serial), job))

  def answers(self) -> list[Answer]:
    """Waits for answers or for `wake`, and returns what came; raises what the reader raised.

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
    """Ends the waiting of another thread in `answers`."""
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

  def _feed(self) -> list[Answer]:
    """Gives out jobs, to the least busy first; returns answers on behalf of those who died."""
    old = self._retiring()
    ready = [(len(p.jobs), k) for k, p in enumerate(self._processes) if p.ready and p is not old]
    heapq.heapify(ready)
    processes = list(self._processes)
    while ready and (self._waiting or self._suspects):
      busy, k = heapq.heappop(ready)
      process = processes[k]
      if busy and process.jobs[0].ticket in self._alone:
        continue
      if self._suspects and not busy:
        job = self._suspects.popleft()
        self._alone.add(job.ticket)
      elif self._waiting and busy < self._depth:
        job = heapq.heappop(self._waiting)[-1]
        heapq.heappush(ready, (busy + 1, k))
      else:
        continue
      try:
        process.give(job, self._buffers)
      except Gone:
        process.jobs.pop()  # it died before it saw that one
        if job.ticket in self._alone:
          self._alone.remove(job.ticket)
          self._suspects.append(job)
        else:
          self.submit(job)
        return self._died(process)
    return []

  def _retiring(self) -> Process | None:
    """Returns the process that is finishing its last jobs; one at a time, others go on."""
    old = next((p for p in self._processes if p.done >= LIFETIME), None)
    if old is None or not all(p.ready for p in self._processes):
      return None
    if not old.jobs:
      self._replace(old)
    return old

  def _hear(self, process: Process) -> list[Answer]:
    try:
      message = process.hear()
    except Gone:
      return self._died(process)
    if isinstance(message, Exception):
      raise message
    self._failed_starts = 0
    if isinstance(message, Answer):
      process.answered()
      self._alone.discard(message.ticket)
      return [message]
    process.ready = True
    return []

  def _patience(self) -> float | None:
    """Returns the seconds until the next look at the clock; None: no process is at work."""
    left = min(map(self._left, self._processes))
    return None if left == float('inf') else min(max(0.0, left), LOOK)

  def _left(self, process: Process) -> float:
    if process.ready and not process.jobs:
      return float('inf')
    limit = self._timeout if process.ready else START_SECONDS
    return process.since + limit - self._clock.seconds()

  def _died(self, process: Process) -> list[Answer]:
    """Replaces a process that ended by itself; its videos become suspects, or one is convicted."""
    status = process.ended()
    self._replace(process)
    if not process.ready:
      self._cannot_start(ending(status))
    if process.jobs and process.jobs[0].ticket in self._alone:
      return [self._failed(process.jobs[0], f'the decoder {ending(status)}')]
    self._suspects += process.jobs
    return []

  def _overdue(self, process: Process) -> list[Answer]:
    """Replaces a process that hangs; what waited behind the video at which it does is innocent."""
    self._replace(process)
    if not process.ready:
      self._cannot_start(f'was silent for {START_SECONDS:g} s')
      return []
    first, *others = process.jobs
    for job in others:
      self.submit(job)
    return [
      self._failed(
        first, f'took longer than config.data.decode_timeout_seconds={self._timeout:g} s'
      )
    ]

  def _failed(self, job: Job, reason: str) -> Answer:
    self._alone.discard(job.ticket)
    return Answer(job.ticket, job.attempt.index, failure=(job.attempt.video.path, reason))

  def _cannot_start(self, how: str) -> None:
    self._failed_starts += 1
    if self._failed_starts == STARTS:
      raise DataError(
        f'decoding processes cannot be started ({STARTS} in a row; the last {how}): see what they '
        'wrote above, or set config.data.workers=0 to decode in threads'
      )


class Threads:
  """One thread per core; see `Decoders`."""

  def __init__(self, reader: Reader, buffers: Buffers):
    """Takes what does a job, and where its pixels go."""
    count = cores()
    self._reader, self._ahead = reading_ahead(reader, count)
    self.jobs = count * (QUEUE if self._ahead is None else DEPTH)
    self._buffers = buffers
    self._pool = ThreadPoolExecutor(count, thread_name_prefix='decode')
    self._answers: queue.SimpleQueue[Answer | Exception | None] = queue.SimpleQueue()

  def start(self) -> None:
    """Has nothing to do: threads start as they are needed."""

  def submit(self, job: Job) -> None:
    """Adds a job; never blocks."""
    if self._ahead is not None:
      self._ahead.start(job.attempt.index)
    self._pool.submit(self._do, job)

  def answers(self) -> list[Answer]:
    """Waits for answers or for `wake`, and returns what came; raises what the reader raised."""
    found = [self._answers.get()]
    while not self._answers.empty():
      found.append(self._answers.get())
    for answer in found:
      if isinstance(answer, Exception):
        raise answer
    return [answer for answer in found if isinstance(answer, Answer)]

  def wake(self) -> None:
    """Ends the waiting of another thread in `answers`."""
    self._answers.put(None)

  def close(self) -> None:
    """Waits for the videos that are being decoded, and forgets the others."""
    if self._ahead is not None:
      self._ahead.close()
    self._pool.shutdown(cancel_futures=True)

  def _do(self, job: Job) -> None:
    try:
      self._answers.put(do(job, self._reader, self._buffers.row))
    except Exception as error:
      self._answers.put(error)


def cores() -> int:
  """Returns how many cores this process may use."""
  return len(os.sched_getaffinity(0))
