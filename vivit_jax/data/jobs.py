# SPDX-License-Identifier: Apache-2.0
"""What decoders are given to do, and how it ended.

`ReadAhead` reads the bytes of the next videos while others are being decoded.
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

QUEUE = 2  # tasks of a decoder that need not wait for bytes: it never idles between two


@dataclasses.dataclass(frozen=True)
class Task:
  """One attempt, and where its pixels go."""

  slot: int  # place of the example in the stream; low ones are wanted first
  request: Request
  places: tuple[Place, ...]  # one per view


@dataclasses.dataclass(frozen=True)
class Result:
  """How a task ended; exactly one of label and failure is given."""

  slot: int
  index: int  # of the video
  label: np.ndarray | None = None
  failure: Failure | None = None


def run_task(task: Task, reader: Reader, row: Callable[[Place], np.ndarray]) -> Result:
  """Reads a video and writes its views to their rows."""
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
  """Threads or processes that do tasks; used by one thread, but for `wake`."""

  tasks: int  # that should be there for them to do, or some are idle

  def start(self) -> None:
    """Starts them."""

  def decode(self, task: Task) -> None:
    """Adds a task; never blocks."""

  def decoded(self) -> list[Result]:
    """Waits for results or for `wake`, and returns what came."""

  def wake(self) -> None:
    """Ends the waiting of another thread in `decoded`."""

  def close(self) -> None:
    """Ends them, whatever they are doing."""


# Videos on their way to one decoder: 50 ms away, they keep one busy that takes 3 ms for each.
DEPTH = 16


class ReadAhead:
  """Contents whose reading can be started early."""

  def __init__(self, contents: Contents, depth: int = DEPTH):
    """Takes what it reads from, and how many videos at a time."""
    self._contents = contents
    self._threads = ThreadPoolExecutor(depth, thread_name_prefix='read_ahead')
    self._started: dict[int, deque[Future[bytes]]] = defaultdict(deque)
    self._lock = threading.Lock()

  def start(self, index: int) -> None:
    """Begins to read a video, for the next `[index]`."""
    future = self._threads.submit(self._contents.__getitem__, index)
    with self._lock:
      self._started[index].append(future)

  def __getitem__(self, index: int) -> bytes:
    """Returns what was started earliest; raises DecodeError."""
    with self._lock:
      future = self._started[index].popleft()
      if not self._started[index]:
        del self._started[index]
    return future.result()

  def close(self) -> None:
    """Forgets what nobody has asked for."""
    self._threads.shutdown(wait=False, cancel_futures=True)


def reading_ahead(reader: Reader, decoders: int = 1) -> tuple[Reader, ReadAhead | None]:
  """Returns the reader for so many decoders, whose every video has to be started; None: of files.

  Files are not read ahead: the operating system does that.
  """
  contents = reader.manifest.contents
  if contents is None:
    return reader, None
  ahead = ReadAhead(contents, decoders * DEPTH)
  manifest = dataclasses.replace(reader.manifest, contents=ahead)
  return dataclasses.replace(reader, manifest=manifest), ahead  # type: ignore[type-var]


class Decode(Work):
  """Decodes in a process of its own, into the buffers of its parent."""

  def __init__(self, reader: Reader, row: tuple[int, ...]):
    """Takes what reads, and the shape of a row of the buffers."""
    self._reader, self._row = reader, row
    self._ahead: ReadAhead | None = None
    self._maps: dict[int, mmap.mmap] = {}

  def start(self) -> None:
    """Prepares to read ahead."""
    self._reader, self._ahead = reading_ahead(self._reader)

  def expect(self, task: Task) -> None:
    """Begins to read the video's bytes."""
    if self._ahead is not None:
      self._ahead.start(task.request.index)

  def __call__(self, task: Task) -> Result:
    """Returns how a task ended; pixels are in its rows."""
    return run_task(task, self._reader, self._row_at)

  def _row_at(self, place: Place) -> np.ndarray:
    number, row = place
    if number not in self._maps:
      self._maps[number] = open_buffer(os.getppid(), number)
    return rows(self._maps[number], self._row)[row]
