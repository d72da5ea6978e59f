# SPDX-License-Identifier: Apache-2.0
"""Decodes videos in processes or in threads of the trainer.

A process that crashes or hangs is replaced, and costs a video, not the run. Threads need no start
and no copies, but a file that crashes one of them ends the trainer.
"""

import queue
from concurrent.futures import ThreadPoolExecutor

from vivit_jax.data.buffers import Buffers
from vivit_jax.data.examples import Reader
from vivit_jax.data.jobs import DEPTH, QUEUE, Decode, Result, Task, reading_ahead, run_task
from vivit_jax.data.pool import Lost, WorkerPool, cores
from vivit_jax.data.worker import ending
from vivit_jax.distributed import hosts


def automatic(videos: int) -> int:
  """Returns how many processes decode so many videos if nobody says: 0, threads, on one core.

  One core stays with the trainer, whose interpreter then runs nothing but it: threads share its
  lock with the decoders' Python and with the thread that saves.
  """
  return max(0, min(cores() // hosts.neighbors() - 1, videos))


class Processes(WorkerPool):
  """See `Decoders`: which videos count as unreadable depends on nothing but the videos."""

  def __init__(self, reader: Reader, row: tuple[int, ...], count: int, timeout: float):
    """Prepares what `start` starts.

    Args:
      reader: sent to the processes.
      row: shape of a row of the buffers, [F, H, W, 3].
      count: of processes.
      timeout: seconds for one video.
    """
    super().__init__(
      Decode(reader, row),
      count,
      depth=QUEUE if reader.manifest.contents is None else DEPTH,
      retry=True,
      advice=', or set config.data.workers=0 to decode in threads',
    )
    self._timeout = timeout

  def decode(self, task: Task) -> None:
    """Adds a task; never blocks."""
    self.submit(task, self._timeout, priority=task.slot)

  def decoded(self) -> list[Result]:
    """Waits for results or for `wake`, and returns what came; raises what the reader raised."""
    return [
      self._failed(task, result) if isinstance(result, Lost) else result
      for task, result in self.results()
    ]

  def _failed(self, task: Task, lost: Lost) -> Result:
    reason = (
      f'took longer than config.data.decode_timeout_seconds={self._timeout:g} s'
      if lost.status is None
      else f'the decoder {ending(lost.status)}'
    )
    return Result(task.slot, task.request.index, failure=(task.request.video.path, reason))


class Threads:
  """One thread per core; see `Decoders`."""

  def __init__(self, reader: Reader, buffers: Buffers):
    """Takes what does a task, and where its pixels go."""
    count = cores()
    self._reader, self._ahead = reading_ahead(reader, count)
    self.tasks = count * (QUEUE if self._ahead is None else DEPTH)
    self._buffers = buffers
    self._pool = ThreadPoolExecutor(count, thread_name_prefix='decode')
    self._results: queue.SimpleQueue[Result | Exception | None] = queue.SimpleQueue()

  def start(self) -> None:
    """Has nothing to do: threads start as they are needed."""

  def decode(self, task: Task) -> None:
    """Adds a task; never blocks."""
    if self._ahead is not None:
      self._ahead.start(task.request.index)
    self._pool.submit(self._do, task)

  def decoded(self) -> list[Result]:
    """Waits for results or for `wake`, and returns what came; raises what the reader raised."""
    found = [self._results.get()]
    while not self._results.empty():
      found.append(self._results.get())
    for result in found:
      if isinstance(result, Exception):
        raise result
    return [result for result in found if isinstance(result, Result)]

  def wake(self) -> None:
    """Ends the waiting of another thread in `decoded`."""
    self._results.put(None)

  def close(self) -> None:
    """Waits for the videos that are being decoded, and forgets the others."""
    if self._ahead is not None:
      self._ahead.close()
    self._pool.shutdown(cancel_futures=True)

  def _do(self, task: Task) -> None:
    try:
      self._results.put(run_task(task, self._reader, self._buffers.row))
    except Exception as error:
      self._results.put(error)
