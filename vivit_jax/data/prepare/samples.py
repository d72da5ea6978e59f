# SPDX-License-Identifier: Apache-2.0
"""The first part of a build: checks and encodes videos in parallel and keeps each finished one.

`read_source` reads a folder of manifests and returns one sample per row.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import SEPARATOR, SPLITS, Manifest, read_manifest
from vivit_jax.data.pool import Lost, cores, run_all
from vivit_jax.data.prepare.encode import Encoding, Facts, is_copied, stored_video
from vivit_jax.data.prepare.jobs import Journal, State, file_state, timeout_seconds, why_lost
from vivit_jax.data.prepare.shards import is_prepared
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.data.worker import Work
from vivit_jax.errors import DataError
from vivit_jax.files import replace_file


@dataclasses.dataclass(frozen=True)
class Head:
  """One column of labels."""

  name: str
  classes: tuple[str, ...]  # class names by class id
  tags: bool  # whether cells have any number of classes instead of one


@dataclasses.dataclass(frozen=True)
class Sample:
  """One row of a manifest."""

  split: str
  index: int  # row number in its split, from 0
  name: str  # path in the manifest, plus the span in seconds as #t=1.5,4.0
  path: str  # absolute
  start: float | None
  end: float | None
  labels: tuple[tuple[int, ...], ...]  # class ids per head; one id unless the head has tags

  def cells(self, heads: tuple[Head, ...]) -> list[str]:
    """Returns the labels as cells of a manifest."""
    pairs = zip(heads, self.labels, strict=True)
    return [SEPARATOR.join(head.classes[i] for i in ids) for head, ids in pairs]


@dataclasses.dataclass(frozen=True)
class Listing:
  """Contents of all manifests."""

  heads: tuple[Head, ...]
  samples: tuple[Sample, ...]  # by split, in file order
  fingerprint: str  # fingerprint of rows and class names


def read_source(root: Path) -> Listing:
  """Reads the manifests and class files of a folder; each class file defines a head.

  A head is single-label if every cell is one class name, and otherwise multi-label (tags).

  Raises:
    DataError: see `read_manifest`; or a manifest or class file is missing, or the folder already
      has prepared videos.
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
  """Returns one head and its manifests by split."""
  task = Task(heads=(name,), classes=())
  try:
    manifests = {split: read_manifest(root, split, task) for split in splits}
  except DataError as error:
    task = dataclasses.replace(task, kind='multi_label')
    try:
      manifests = {split: read_manifest(root, split, task) for split in splits}
    except DataError:
      # Report the single-label error; as tags, a misspelt name with a separator would be split.
      raise error from None
  classes = next(iter(manifests.values())).class_names[name]
  return Head(name, classes, task.kind == 'multi_label'), manifests


Reasons = dict[Sample, str]  # reason for each unreadable sample


class Finished:
  """Facts about finished samples, written to disk immediately.

  Attributes:
    folder: work folder of the build.
    facts: facts by split and index.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self._journal = Journal(folder / 'finished.jsonl')
    self.facts: dict[tuple[str, int], Facts] = {}
    self._states: dict[tuple[str, int], State | None] = {}
    for row in self._journal.entries:
      key = row['split'], row['index']
      # Entries of an earlier version have no state, and those samples are done again.
      self.facts[key], self._states[key] = Facts(**row['facts']), row.get('state')

  def path(self, sample: Sample) -> Path:
    """Returns the path of the stored video if it is not copied from its source."""
    return _encoded_path(self.folder, sample)

  def add(self, sample: Sample, state: State, facts: Facts) -> None:
    """Records a sample whose stored video is complete, with the state of its source file."""
    key = sample.split, sample.index
    self.facts[key], self._states[key] = facts, state
    row = {'split': key[0], 'index': key[1], 'state': state, 'facts': dataclasses.asdict(facts)}
    self._journal.add(row)

  def has(self, sample: Sample, encoding: Encoding) -> bool:
    """Returns whether a sample is finished."""
    key = sample.split, sample.index
    if self._states.get(key) != file_state(sample.path):
      return False
    if is_copied(sample.start, sample.end, encoding):
      return True
    path = self.path(sample)
    return path.is_file() and path.stat().st_size == self.facts[key].size


def _encoded_path(folder: Path, sample: Sample) -> Path:
  return folder / sample.split / f'{sample.index // 1000}' / f'{sample.index}.mp4'


def finish_samples(
  samples: tuple[Sample, ...],
  encoding: Encoding,
  finished: Finished,
  max_bad_fraction: float,
  on_failures: Callable[[Reasons], None],
) -> Reasons:
  """Processes the unfinished samples and returns the unreadable ones.

  Args:
    samples: all samples of the build.
    encoding: encoding of stored videos.
    finished: finished samples of this and earlier runs; updated.
    max_bad_fraction: maximum fraction of unreadable samples.
    on_failures: called with the unreadable samples before the build ends because of them.

  Raises:
    DataError: too many samples are unreadable.
    OSError: the work folder is not writable.
  """
  failures: Reasons = {}
  missing = [sample for sample in samples if not finished.has(sample, encoding)]
  if not missing:
    return failures

  def limit(sample: Sample) -> float:
    return timeout_seconds(sample.path, not is_copied(sample.start, sample.end, encoding))

  tasks = ((sample, limit(sample)) for sample in missing)
  stream = run_all(Prepare(encoding, finished.folder), tasks, min(cores(), len(missing)))
  bar = tqdm(
    total=len(samples), initial=len(samples) - len(missing), desc='preparing', unit=' videos'
  )
  with bar, contextlib.closing(stream):
    for sample, outcome in stream:
      bar.update()
      if not isinstance(outcome, str | Lost):
        finished.add(sample, *outcome)
        continue
      reason = why_lost(outcome, limit(sample)) if isinstance(outcome, Lost) else outcome
      failures[sample] = reason
      bar.set_postfix_str(f'{len(failures)} unreadable')
      if len(failures) > max_bad_fraction * len(samples):
        on_failures(failures)
        raise DataError(
          f'{len(failures)} of {len(samples)} videos cannot be read, more than '
          f'--max-bad-fraction={max_bad_fraction}; the first is {next(iter(failures)).path}: '
          f'{next(iter(failures.values()))}'
        )
  return failures


class Prepare(Work):
  """Checks and encodes samples in worker processes."""

  def __init__(self, encoding: Encoding, folder: Path):
    """Takes the encoding, and the work folder for videos that are not copied."""
    self._encoding, self._folder = encoding, folder

  def __call__(self, sample: Sample) -> tuple[State, Facts] | str:
    """Stores a video atomically; returns its source state and facts, or why it is unreadable."""
    state = file_state(sample.path)  # before reading, to detect a change meanwhile
    try:
      content, facts = stored_video(sample.path, sample.start, sample.end, self._encoding)
    except DecodeError as error:
      return error.reason
    if not is_copied(sample.start, sample.end, self._encoding):
      path = _encoded_path(self._folder, sample)
      path.parent.mkdir(parents=True, exist_ok=True)
      replace_file(path, content)
    return state, facts
