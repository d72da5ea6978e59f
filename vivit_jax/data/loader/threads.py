# SPDX-License-Identifier: Apache-2.0
"""Decodes in threads of the trainer: nothing to start, nothing in between, and no protection."""

import os
import queue
from concurrent.futures import ThreadPoolExecutor

from vivit_jax.data.loader.buffers import Buffers
from vivit_jax.data.loader.jobs import QUEUE, Answer, Job, do
from vivit_jax.data.loader.read_ahead import DEPTH, reading_ahead
from vivit_jax.data.records import Reader


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
