# SPDX-License-Identifier: Apache-2.0
"""Checks all videos of a data set; can be interrupted and resumed."""

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import SPLITS, read_manifest
from vivit_jax.data.pool import Lost, run_all
from vivit_jax.data.prepare.jobs import (
  CRASHED,
  LARGE,
  SLOW,
  Journal,
  file_state,
  timeout_seconds,
  why_lost,
)
from vivit_jax.data.prepare.shards import is_prepared
from vivit_jax.data.splits import Bad, read_list, write_list
from vivit_jax.data.video.reader import DecodeError, VideoReader
from vivit_jax.data.worker import Work
from vivit_jax.errors import DataError, printable

MEGABYTES = 2048  # in addition to the memory at start; a 4096 x 2304 video takes 250
CLIP = 32  # frames that --quick decodes at the start, in the middle and at the end

Span = tuple[float | None, float | None]
Found = tuple[float | None, float | None, str]  # start and end of the row, or None; reason


@dataclasses.dataclass(frozen=True)
class File:
  """A file of a data set, with the spans in its manifests."""

  path: str  # as in the manifest
  place: str  # absolute
  spans: tuple[Span, ...]  # spans of its rows, except whole-file rows


def examine(file: File, quick: bool) -> list[Found]:
  """Returns the problems of a file or of its rows, in the order of the rows.

  Args:
    file: file to check.
    quick: decode CLIP frames in three places instead of all frames.
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
    return [(None, None, f'{LARGE}: it needs more memory than is available')]
  return [
    (start, end, f'empty span: no frame from {start} s to {end} s: it lasts {times[-1]:.3f} s')
    for start, end in file.spans
    if _frames_in(times, start, end) == 0
  ]


def _frames_in(times: np.ndarray, start: float | None, end: float | None) -> int:
  first = 0 if start is None else np.searchsorted(times, start)
  return int((len(times) if end is None else np.searchsorted(times, end)) - first)


class Examine(Work):
  """Checks files in worker processes."""

  def __init__(self, quick: bool):
    """Takes the option of `examine`."""
    self._quick = quick

  def __call__(self, file: File) -> list[Found]:
    """Returns the problems of a file."""
    return examine(file, self._quick)


def examine_all(
  files: Iterable[File],
  workers: int,
  quick: bool,
  seconds: float | None = None,
  megabytes: int = MEGABYTES,
) -> Generator[tuple[File, list[Found]], None, None]:
  """Yields each file with its problems, in order of completion.

  Args:
    files: files to check.
    workers: number of processes.
    quick: see `examine`.
    seconds: time limit per file; None = that of `timeout_seconds`.
    megabytes: memory limit per process, in addition to its memory at start.
  """

  def limit(file: File) -> float:
    return timeout_seconds(file.place) if seconds is None else seconds

  tasks = ((file, limit(file)) for file in files)
  with contextlib.closing(run_all(Examine(quick), tasks, workers, megabytes=megabytes)) as stream:
    for file, found in stream:
      if isinstance(found, Lost):
        found = [(None, None, why_lost(found, limit(file)))]
      yield file, found


# Problems that may not occur on another machine or at another time; such files are checked again.
PASSING = (SLOW, CRASHED, LARGE, 'missing', 'no permission', 'cannot be read')


def files_of(root: Path, splits: Sequence[str]) -> list[File]:
  """Returns the distinct files in manifests, in order.

  Args:
    root: folder of the manifests.
    splits: names of the manifests without `.csv`.

  Raises:
    DataError: a manifest is invalid; labels are not checked.
  """
  spans: dict[str, dict[Span, None]] = {}
  for split in splits:
    for video in read_manifest(root, split, Task(heads=(), classes=())).videos:
      spans.setdefault(video.path, {})[video.start, video.end] = None
  base = os.path.abspath(root)
  return [
    File(os.path.relpath(place, base), place, tuple(span for span in rows if span != (None, None)))
    for place, rows in spans.items()
  ]


def splits_of(root: Path) -> list[str]:
  """Returns the names of a folder's manifests; raises DataError if there are none to check."""
  if is_prepared(root):
    raise DataError(f'{root} holds prepared videos, which were verified as they were written')
  found = [split for split in SPLITS if (root / f'{split}.csv').is_file()]
  if not found:
    names = ', '.join(f'{split}.csv' for split in SPLITS)
    raise DataError(f'{root} has none of {names}: give the folder of the manifests, or a CSV')
  return found


@dataclasses.dataclass
class Check:
  """State of a check of a data set.

  Attributes:
    files: all files.
    output: the list of bad videos to write.
    found: problems by path, for files that were checked in this or an earlier run.
  """

  files: list[File]
  output: Path
  quick: bool = False
  found: dict[str, list[Found]] = dataclasses.field(default_factory=dict)

  def run(self, workers: int, seconds: float | None) -> None:
    """Checks the remaining files; if it is interrupted, the list has all results so far."""
    journal = Journal(self.output.with_name(f'.{self.output.name}.checked'))
    self.found = self._known(journal)
    left = [file for file in self.files if file.path not in self.found]
    if len(left) < len(self.files):
      print(f'{len(self.files) - len(left):,} of {len(self.files):,} files are known already')
    stream = examine_all(left, workers, self.quick, seconds)
    try:
      with (
        contextlib.closing(stream),
        tqdm(total=len(left), desc='check', unit='video') as bar,
      ):
        for file, found in stream:
          self.found[file.path] = found
          journal.add([*_state(file), self.quick, found])
          bar.set_postfix(bad=self.bad, refresh=False)
          bar.update()
    finally:
      write_list(self.output, self._list())

  @property
  def bad(self) -> int:
    """Number of files with problems."""
    return sum(map(bool, self.found.values()))

  def table(self) -> str:
    """Returns the number of files by kind of problem, with an example of each."""
    listed = [bad for bad in self._list() if bad.path in self.found]
    kinds = Counter(bad.kind for bad in listed)
    first = {bad.kind: bad for bad in reversed(listed)}
    lines = [f'{"bad":>8}  {"kind":18}  for example']
    for kind, count in kinds.most_common():
      detail = first[kind].reason.removeprefix(f'{kind}: ')
      lines.append(printable(f'{count:8,}  {kind:18}  {first[kind].path}: {detail}'))
    return '\n'.join(lines)

  def _list(self) -> list[Bad]:
    """Returns bad videos in the order of the files, then entries of an earlier list for others."""
    rows = [Bad(f.path, *found) for f in self.files for found in self.found.get(f.path, ())]
    return rows + [bad for bad in read_list(self.output) if bad.path not in self.found]

  def _known(self, journal: Journal) -> dict[str, list[Found]]:
    """Returns the problems that an earlier run found in files that have not changed since."""
    states = {file.path: _state(file) for file in self.files}
    known: dict[str, list[Found]] = {}
    for *state, quick, rows in journal.entries:
      found: list[Found] = [(start, end, reason) for start, end, reason in rows]
      lasting = not any(reason.startswith(PASSING) for _, _, reason in found)
      if states.get(state[0]) == state and lasting and (self.quick or not quick):
        known[state[0]] = found
    return known


def _state(file: File) -> list:
  """Returns the identity of a file: path, size, modification time and its rows."""
  return [file.path, *file_state(file.place), [list(span) for span in file.spans]]
