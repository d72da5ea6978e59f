# SPDX-License-Identifier: Apache-2.0
"""Reads every video of a data set once, in processes that bad files may kill.

A file that makes its decoder crash, hang or take too much memory ends one process, which another
replaces, and is named like any other.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from pebble import ProcessExpired, ProcessPool

from vivit_jax.data.video.decode import DecodeError, VideoReader

MEGABYTES = 2048  # beside what a process starts with; 4096 x 2304 takes 250 with all its references
SECONDS = 30.0  # for a file of nothing, and one more per megabyte: five times what decoding takes
CLIP = 32  # frames at the beginning, in the middle and at the end that --quick decodes
QUEUED = 4  # files per process that wait or are being read; an interruption loses these
POLL = 0.02  # seconds
FLOODED = 77  # exit code of a process that took too much memory

SLOW, CRASHED, LARGE = 'too slow', 'decoder crashed', 'too large'

Span = tuple[float | None, float | None]
Found = tuple[float | None, float | None, str]  # start and end of the row, or Nones; reason


@dataclasses.dataclass(frozen=True)
class File:
  """A file that a data set names, and how."""

  path: str  # as in the manifest
  place: str  # absolute
  spans: tuple[Span, ...]  # of its rows, without those of the whole file


def examine(file: File, quick: bool) -> list[Found]:
  """Returns what is wrong with a file, or with rows of it, in the order of the rows.

  Args:
    file: to read.
    quick: decode CLIP frames in three places instead of all.
  """
  try:
    with VideoReader(file.place) as reader:
      if quick:
        last = max(0, reader.frames - CLIP)
        clips = np.array([[0], [last // 2], [last]]) + np.arange(min(CLIP, reader.frames))
        reader.read(np.unique(clips), lambda frame: np.zeros(0))
      else:
        reader.verify()
      times = reader.times
  except DecodeError as error:
    return [(None, None, error.reason)]
  except MemoryError:
    return [(None, None, f'{LARGE}: it takes more memory than there is')]
  return [
    (start, end, f'empty span: no frame from {start} s to {end} s: it lasts {times[-1]:.3f} s')
    for start, end in file.spans
    if _frames_in(times, start, end) == 0
  ]


def _frames_in(times: np.ndarray, start: float | None, end: float | None) -> int:
  first = 0 if start is None else np.searchsorted(times, start)
  return int((len(times) if end is None else np.searchsorted(times, end)) - first)


def examine_all(
  files: Iterable[File],
  workers: int,
  quick: bool,
  seconds: float | None = None,
  megabytes: int = MEGABYTES,
) -> Generator[tuple[File, list[Found]], None, None]:
  """Yields each file with what is wrong with it, as they are done, in any order.

  Args:
    files: to read.
    workers: processes.
    quick: see `examine`.
    seconds: that one file may take; None = SECONDS and one more per megabyte.
    megabytes: that a process may take, beside what it starts with.
  """
  context = multiprocessing.get_context('spawn')
  pool = ProcessPool(workers, context=context, initializer=confine, initargs=(megabytes,))
  try:
    running: dict[concurrent.futures.Future, tuple[File, float]] = {}
    waiting = iter(files)
    more = True
    while more or running:
      while more and len(running) < QUEUED * workers:
        file = next(waiting, None)
        if file is None:
          more = False
          break
        limit = SECONDS + _megabytes(file) if seconds is None else seconds
        running[pool.schedule(examine, (file, quick), timeout=limit)] = file, limit
      done, _ = concurrent.futures.wait(running, return_when='FIRST_COMPLETED')
      for future in done:
        file, limit = running.pop(future)
        yield file, _result(future, limit)
  finally:
    pool.stop()
    pool.join()


def _result(future: concurrent.futures.Future, limit: float) -> list[Found]:
  try:
    return future.result()
  except concurrent.futures.TimeoutError:
    return [(None, None, f'{SLOW}: not done in {limit:.0f} s')]
  except ProcessExpired as error:
    if error.exitcode == FLOODED:
      return [(None, None, f'{LARGE}: it takes more memory than the bound')]
    return [(None, None, f'{CRASHED}: {_ending(error.exitcode)}')]


def _ending(code: int) -> str:
  try:
    return f'it ended by {signal.Signals(-code).name}'
  except ValueError:
    return f'it ended with exit code {code}'


def _megabytes(file: File) -> float:
  try:
    return Path(file.place).stat().st_size / 1e6
  except (OSError, ValueError):
    return 0.0


def confine(megabytes: int) -> None:
  """Ends this process when it takes too much memory, or when its parent is gone."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  bound = _resident() + megabytes * 2**20
  threading.Thread(target=_watch, args=(parent.sentinel, bound), daemon=True).start()
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers


def _watch(sentinel: int, bound: int) -> None:
  # A limit of the system would make allocations fail, which decoders take for damaged files.
  while not wait([sentinel], timeout=POLL):
    if _resident() > bound:
      os._exit(FLOODED)
  os._exit(1)


def _resident() -> int:
  """Returns the bytes of memory that this process holds; 0 where the system does not say."""
  if sys.platform != 'linux':
    return 0
  return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
