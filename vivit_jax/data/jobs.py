# SPDX-License-Identifier: Apache-2.0
"""What is asked of those who decode, and what they answer.

Reads the bytes of videos that are wanted soon, while others are being decoded.
"""

import dataclasses
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np

from vivit_jax.data.buffers import Place
from vivit_jax.data.examples import Attempt, Failure, Reader
from vivit_jax.data.manifest import Contents
from vivit_jax.data.timing import stage
from vivit_jax.data.video.reader import DecodeError

QUEUE = 2  # jobs of a decoder that need not wait for bytes: it never idles between two


@dataclasses.dataclass(frozen=True)
class Job:
  """One attempt, and where its pixels go."""

  ticket: int  # place of the example in the stream; low ones are wanted first
  attempt: Attempt
  places: tuple[Place, ...]  # one per view


@dataclasses.dataclass(frozen=True)
class Answer:
  """How a job ended; exactly one of label and failure is given."""

  ticket: int
  index: int  # of the video
  label: np.ndarray | None = None
  failure: Failure | None = None


def do(job: Job, reader: Reader, row: Callable[[Place], np.ndarray]) -> Answer:
  """Reads a video and writes its views to their rows."""
  try:
    pixels, label = reader(job.attempt)
  except DecodeError as error:
    return Answer(job.ticket, job.attempt.index, failure=(error.path, error.reason))
  for place, view in zip(job.places, pixels, strict=True):
    with stage('batch'):
      row(place)[...] = view
  return Answer(job.ticket, job.attempt.index, label=label)


@runtime_checkable
class Decoders(Protocol):
  """Threads or processes that do jobs; used by one thread, but for `wake`."""

  jobs: int  # that should be there for them to do, or some are idle

  def start(self) -> None:
    """Starts them."""

  def submit(self, job: Job) -> None:
    """Adds a job; never blocks."""

  def answers(self) -> list[Answer]:
    """Waits for answers or for `wake`, and returns what came."""

  def wake(self) -> None:
    """Ends the waiting of another thread in `answers`."""

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
