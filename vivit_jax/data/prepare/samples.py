# SPDX-License-Identifier: Apache-2.0
"""The long part of a build: videos checked and encoded side by side, each kept once it is done.

What a folder of manifests asks `vivit data build` to prepare: one sample per row.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import SEPARATOR, SPLITS, Manifest, read_manifest
from vivit_jax.data.prepare.encode import Encoding, Facts, is_copied, stored_video
from vivit_jax.data.prepare.shards import is_prepared
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError
from vivit_jax.files import replace_file


@dataclasses.dataclass(frozen=True)
class Head:
  """One column of labels."""

  name: str
  classes: tuple[str, ...]  # in the order of their ids
  tags: bool  # a cell holds any number of classes instead of one


@dataclasses.dataclass(frozen=True)
class Sample:
  """One row of a manifest."""

  split: str
  index: int  # of the row in its split, from 0
  name: str  # path in the manifest; a span of seconds is added as in #t=1.5,4.0
  path: str  # absolute
  start: float | None
  end: float | None
  labels: tuple[tuple[int, ...], ...]  # ids per head; one id where the head has no tags

  def cells(self, heads: tuple[Head, ...]) -> list[str]:
    """Returns the labels as a manifest's cells."""
    pairs = zip(heads, self.labels, strict=True)
    return [SEPARATOR.join(head.classes[i] for i in ids) for head, ids in pairs]


@dataclasses.dataclass(frozen=True)
class Listing:
  """All that the manifests list."""

  heads: tuple[Head, ...]
  samples: tuple[Sample, ...]  # by split, in file order
  fingerprint: str  # of rows and class names


def read_source(root: Path) -> Listing:
  """Reads the manifests and class files of a folder; every class file's name is a head.

  A head whose cells are all one class name is a class id; else its cells are lists of tags.

  Raises:
    DataError: what `read_manifest` refuses; no manifest or class file; videos already prepared.
  """
  if is_prepared(root):
    raise DataError(f'{root} holds prepared videos: give the folder they were prepared from')
  splits = [split for split in SPLITS if (root / f'{split}.csv').exists()]
  names = sorted(file.stem for file in (root / 'classes').glob('*.txt'))
  if not splits or not names:
    missing = 'classes/<head>.txt' if splits else 'train.csv'
    raise DataError(
      f'{root} has no {missing}: give a folder of manifests, e.g. one that `vivit data index` wrote'
    )
  columns = [_read_head(root, splits, name) for name in names]
  heads = tuple(head for head, _ in columns)
  samples, digest = [], hashlib.sha256()
  for split in splits:
    manifests = [by_split[split] for _, by_split in columns]
    digest.update(''.join([split, *(m.fingerprint for m in manifests)]).encode())
    for index, video in enumerate(manifests[0].videos):
      labels = tuple(manifest.videos[index].labels for manifest in manifests)
      name = Path(video.path).relative_to(root.absolute()).as_posix()
      if video.start is not None or video.end is not None:
        name += f'#t={video.start or 0.0},{"" if video.end is None else video.end}'
      samples.append(Sample(split, index, name, video.path, video.start, video.end, labels))
  return Listing(heads, tuple(samples), digest.hexdigest()[:16])


def _read_head(root: Path, splits: list[str], name: str) -> tuple[Head, dict[str, Manifest]]:
  """Returns one head and its manifest by split."""
  task = Task(heads=(name,), classes=())
  try:
    manifests = {split: read_manifest(root, split, task) for split in splits}
  except DataError as error:
    task = dataclasses.replace(task, kind='multi_label')
    try:
      manifests = {split: read_manifest(root, split, task) for split in splits}
    except DataError:
      # Said of one class: a list of tags splits the misspelt name where it has a separator.
      raise error from None
  classes = next(iter(manifests.values())).class_names[name]
  return Head(name, classes, task.kind == 'multi_label'), manifests


PATIENCE = (120.0, 1e-5)  # seconds for any video, and for each of its bytes; then it hangs
AHEAD = 4  # videos handed out per process

Reasons = dict[Sample, str]  # and the reason


class Finished:
  """What is known of the finished samples, on disk as soon as they are.

  Args:
    folder: of the build's work.
  """

  def __init__(self, folder: Path):
    self._folder = folder
    self._file = folder / 'finished.jsonl'
    self.facts: dict[tuple[str, int], Facts] = {}
    lines = self._file.read_bytes().splitlines() if self._file.exists() else []
    for line in lines:
      try:
        row = json.loads(line)
      except ValueError:
        continue  # cut off by a kill: that sample is done again
      self.facts[row['split'], row['index']] = Facts(**row['facts'])
    # Without the cut off line, to which the next one would be glued.
    replace_file(self._file, b''.join(map(_line, self.facts, self.facts.values())))

  def path(self, sample: Sample) -> Path:
    """Returns where the video lies if it is not copied from its source."""
    return self._folder / sample.split / f'{sample.index // 1000}' / f'{sample.index}.mp4'

  def add(self, sample: Sample, facts: Facts) -> None:
    """Notes a sample whose video is in its place."""
    self.facts[sample.split, sample.index] = facts
    with self._file.open('ab') as handle:
      handle.write(_line((sample.split, sample.index), facts))

  def has(self, sample: Sample, encoding: Encoding) -> bool:
    """Whether a sample needs no more work."""
    facts = self.facts.get((sample.split, sample.index))
    if facts is None or is_copied(sample.start, sample.end, encoding):
      return facts is not None
    path = self.path(sample)
    return path.is_file() and path.stat().st_size == facts.size


def _line(key: tuple[str, int], facts: Facts) -> bytes:
  row = {'split': key[0], 'index': key[1], 'facts': dataclasses.asdict(facts)}
  return json.dumps(row).encode() + b'\n'


def finish_samples(
  samples: tuple[Sample, ...],
  encoding: Encoding,
  finished: Finished,
  max_bad_fraction: float,
  on_failures: Callable[[Reasons], None],
) -> Reasons:
  """Does what is missing; returns which samples cannot be read.

  Args:
    samples: all of the build.
    encoding: of what is stored.
    finished: of this and earlier runs; added to.
    max_bad_fraction: of the samples that may be unreadable.
    on_failures: called with those so far before too many of them end the build.

  Raises:
    DataError: too many cannot be read.
    OSError: the work cannot be written.
  """
  failures: Reasons = {}
  missing = [sample for sample in samples if not finished.has(sample, encoding)]
  bar = tqdm(
    total=len(samples),
    initial=len(samples) - len(missing),
    desc='preparing',
    unit=' videos',
    disable=not missing,
  )
  with bar, _pool(len(missing)) as pool:
    for sample, future in _in_turn(pool, missing, encoding, finished):
      bar.update()
      try:
        finished.add(sample, future.result())
        continue
      except DecodeError as error:
        failures[sample] = error.reason
      except concurrent.futures.TimeoutError:
        failures[sample] = f'not done after {_patience(sample):.0f} s'
      except ProcessExpired as error:
        failures[sample] = f'reading it ended the process with exit code {error.exitcode}'
      bar.set_postfix_str(f'{len(failures)} unreadable')
      if len(failures) > max_bad_fraction * len(samples):
        on_failures(failures)
        raise DataError(
          f'{len(failures)} of {len(samples)} videos cannot be read, more than '
          f'--max-bad-fraction={max_bad_fraction}; the first is {next(iter(failures)).path}: '
          f'{next(iter(failures.values()))}'
        )
  return failures


def _in_turn(
  pool: ProcessPool, samples: list[Sample], encoding: Encoding, finished: Finished
) -> Iterator[tuple[Sample, Any]]:
  """Yields samples and their futures as they are done, with few handed out at a time."""
  pending: dict[Any, Sample] = {}
  waiting = iter(samples)
  while True:
    while len(pending) < AHEAD * _processes() and (sample := next(waiting, None)):
      arguments = (sample, encoding, finished.path(sample))
      pending[pool.schedule(_finish, arguments, timeout=_patience(sample))] = sample
    if not pending:
      return
    done, _ = concurrent.futures.wait(pending, return_when='FIRST_COMPLETED')
    for future in done:
      yield pending.pop(future), future


def _finish(sample: Sample, encoding: Encoding, path: Path) -> Facts:
  """Runs in a worker: the video in its place, whole, before anything is said of it."""
  content, facts = stored_video(sample.path, sample.start, sample.end, encoding)
  if not is_copied(sample.start, sample.end, encoding):
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
  return facts


def _patience(sample: Sample) -> float:
  """Returns seconds; even long films are read at a few megabytes a second."""
  try:
    size = os.stat(sample.path).st_size
  except OSError:
    size = 0
  return PATIENCE[0] + PATIENCE[1] * size


def _processes() -> int:
  return len(os.sched_getaffinity(0))


@contextmanager
def _pool(tasks: int) -> Iterator[ProcessPool]:
  # Spawned: forking a process with threads, as of the pool and the bar, can deadlock the child.
  context = multiprocessing.get_context('spawn')
  pool = ProcessPool(
    max(1, min(_processes(), tasks)), initializer=_end_with_parent, context=context
  )
  try:
    yield pool
    pool.close()
  except BaseException:
    pool.stop()
    raise
  finally:
    pool.join()


def _end_with_parent() -> None:
  """Makes a worker exit when the build is gone, however that ended; else it waits for ever."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the build ends its workers
  parent = multiprocessing.parent_process()
  assert parent is not None
  sentinel = parent.sentinel

  def watch() -> None:
    wait([sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
