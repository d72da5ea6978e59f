# SPDX-License-Identifier: Apache-2.0
"""Tasks of decoders and their results.

`ReadAhead` reads the bytes of the next videos while other videos are decoded.
"""

import dataclasses
import mmap
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np

from vivit_jax.data.buffers import Place, open_buffer, rows
from vivit_jax.data.examples import Failure, Reader, Request
from vivit_jax.data.manifest import Contents
from vivit_jax.data.timing import stage
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.data.worker import Work

QUEUE = 2  # tasks queued per decoder for local files, so that it never idles


@dataclasses.dataclass(frozen=True)
class Task:
  """A request and the buffer rows for its pixels."""

  slot: int  # position of the example in the stream; lower ones are more urgent
  request: Request
  places: tuple[Place, ...]  # one per view


@dataclasses.dataclass(frozen=True)
class Result:
  """Outcome of a task: either a label or a failure."""

  slot: int
  index: int  # index of the video
  label: np.ndarray | None = None
  failure: Failure | None = None


def run_task(task: Task, reader: Reader, row: Callable[[Place], np.ndarray]) -> Result:
  """Reads a video and writes its views to the task's rows."""
  try:
    pixels, label = reader(task.request)
  except DecodeError as error:
    return Result(task.slot, task.request.index, failure=(error.path, error.reason))
  for place, view in zip(task.places, pixels, strict=True):
    with stage('batch'):
      row(place)[...] = view
  return Result(task.slot, task.request.index, label=label)


@runtime_checkable
class Decoders(Protocol):
  """Threads or processes that run tasks; all methods but `wake` are called from one thread."""

  tasks: int  # number of submitted tasks that keeps all of them busy

  def start(self) -> None:
    """Starts the threads or processes."""

  def decode(self, task: Task) -> None:
    """Adds a task; never blocks."""

  def decoded(self) -> list[Result]:
    """Waits for results or for `wake`, and returns the results."""

  def wake(self) -> None:
    """Wakes a thread that is waiting in `decoded`."""

  def close(self) -> None:
    """Stops the threads or processes, also if they are busy."""


# Videos read ahead per decoder: with 50 ms latency, enough for a decoder that takes 3 ms a video.
DEPTH = 16


class ReadAhead:
  """Contents that can be read ahead."""

  def __init__(self, contents: Contents, depth: int = DEPTH):
    """Takes the contents to read, and the number of videos to read at a time."""
    self._contents = contents
    self._threads = ThreadPoolExecutor(depth, thread_name_prefix='read_ahead')
    self._started: dict[int, deque[Future[bytes]]] = defaultdict(deque)
    self._lock = threading.Lock()

  def start(self, index: int) -> None:
    """Starts reading a video for a later `[index]`."""
    future = self._threads.submit(self._contents.__getitem__, index)
    with self._lock:
      self._started[index].append(future)

  def __getitem__(self, index: int) -> bytes:
    """Returns the content from the earliest `start` of this video; raises DecodeError."""
    with self._lock:
      future = self._started[index].popleft()
      if not self._started[index]:
        del self._started[index]
    return future.result()

  def close(self) -> None:
    """Drops contents that were not requested."""
    self._threads.shutdown(wait=False, cancel_futures=True)


def reading_ahead(reader: Reader, decoders: int = 1) -> tuple[Reader, ReadAhead | None]:
  """Returns a reader that reads ahead, and its ReadAhead, on which every video must be started.

  Local files need no read-ahead, since the operating system does it; then ReadAhead is None.
  """
  contents = reader.manifest.contents
  if contents is None:
    return reader, None
  ahead = ReadAhead(contents, decoders * DEPTH)
  manifest = dataclasses.replace(reader.manifest, contents=ahead)
  return dataclasses.replace(reader, manifest=manifest), ahead  # type: ignore[type-var]


class Decode(Work):
  """Decodes in a worker process, into the parent's buffers."""

  def __init__(self, reader: Reader, row: tuple[int, ...]):
    """Takes the reader and the shape of a buffer row."""
    self._reader, self._row = reader, row
    self._ahead: ReadAhead | None = None
    self._maps: dict[int, mmap.mmap] = {}

  def start(self) -> None:
    """Prepares reading ahead."""
    self._reader, self._ahead = reading_ahead(self._reader)

  def expect(self, task: Task) -> None:
    """Starts reading the bytes of the task's video."""
    if self._ahead is not None:
      self._ahead.start(task.request.index)

  def __call__(self, task: Task) -> Result:
    """Runs a task and returns its result; the pixels are written to its rows."""
    return run_task(task, self._reader, self._row_at)

  def _row_at(self, place: Place) -> np.ndarray:
    number, row = place
    if number not in self._maps:
      self._maps[number] = open_buffer(os.getppid(), number)
    return rows(self._maps[number], self._row)[row]
