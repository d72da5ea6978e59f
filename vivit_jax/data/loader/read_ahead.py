# SPDX-License-Identifier: Apache-2.0
"""Reads the bytes of videos that are wanted soon, while others are being decoded."""

import dataclasses
import threading
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor

from vivit_jax.data.manifest import Contents
from vivit_jax.data.records import Reader

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
