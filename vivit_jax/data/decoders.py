# SPDX-License-Identifier: Apache-2.0
"""Decodes videos in worker processes or in threads of the trainer.

If a worker process crashes or hangs, it is replaced and only its video counts as unreadable.
Threads start faster and need no copies, but a file that crashes a thread ends the trainer.
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
  """Returns the default number of processes for this many videos; 0 (threads) on a single core.

  One core is left to the trainer. Decoding in processes also keeps the decoders' Python code from
  competing with the trainer for the interpreter lock.
  """
  return max(0, min(cores() // hosts.neighbors() - 1, videos))


class Processes(WorkerPool):
  """Worker processes, see `Decoders`; which videos are unreadable depends only on the videos."""

  def __init__(self, reader: Reader, row: tuple[int, ...], count: int, timeout: float):
    """Prepares the pool; `start` starts the processes.

    Args:
      reader: reader, which is sent to the processes.
      row: shape of one row of the buffers, [F, H, W, 3].
      count: number of processes.
      timeout: time limit for one video, in seconds.
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
    """Takes the reader and the buffers for its pixels."""
    count = cores()
    self._reader, self._ahead = reading_ahead(reader, count)
    self.tasks = count * (QUEUE if self._ahead is None else DEPTH)
    self._buffers = buffers
    self._pool = ThreadPoolExecutor(count, thread_name_prefix='decode')
    self._results: queue.SimpleQueue[Result | Exception | None] = queue.SimpleQueue()

  def start(self) -> None:
    """Does nothing; threads start when needed."""

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
    """Wakes a thread that is waiting in `decoded`."""
    self._results.put(None)

  def close(self) -> None:
    """Waits for the videos that are being decoded and drops the queued ones."""
    if self._ahead is not None:
      self._ahead.close()
    self._pool.shutdown(cancel_futures=True)

  def _do(self, task: Task) -> None:
    try:
      self._results.put(run_task(task, self._reader, self._buffers.row))
    except Exception as error:
      self._results.put(error)
