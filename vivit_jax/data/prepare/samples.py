# SPDX-License-Identifier: Apache-2.0
"""The long part of a build: videos checked and encoded side by side, each kept once it is done.

`read_source` lists what a folder of manifests asks `vivit data build` for: one sample per row.
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


Reasons = dict[Sample, str]  # why samples cannot be read


class Finished:
  """What is known of the finished samples, on disk as soon as they are.

  Attributes:
    folder: of the build's work.
    facts: by split and index.
  """

  def __init__(self, folder: Path):
    self.folder = folder
    self._journal = Journal(folder / 'finished.jsonl')
    self.facts: dict[tuple[str, int], Facts] = {}
    self._states: dict[tuple[str, int], State | None] = {}
    for row in self._journal.entries:
      key = row['split'], row['index']
      # An earlier version noted no state: those are done again.
      self.facts[key], self._states[key] = Facts(**row['facts']), row.get('state')

  def path(self, sample: Sample) -> Path:
    """Returns where the video lies if it is not copied from its source."""
    return _encoded_path(self.folder, sample)

  def add(self, sample: Sample, state: State, facts: Facts) -> None:
    """Notes a sample whose video is in its place, made of a file of this state."""
    key = sample.split, sample.index
    self.facts[key], self._states[key] = facts, state
    row = {'split': key[0], 'index': key[1], 'state': state, 'facts': dataclasses.asdict(facts)}
    self._journal.add(row)

  def has(self, sample: Sample, encoding: Encoding) -> bool:
    """Whether a sample needs no more work."""
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
  """Checks and encodes samples in other processes."""

  def __init__(self, encoding: Encoding, folder: Path):
    """Takes how videos are stored, and where those lie that are not copied."""
    self._encoding, self._folder = encoding, folder

  def __call__(self, sample: Sample) -> tuple[State, Facts] | str:
    """Puts a video into its place whole; returns its file's state and its facts, or the reason."""
    state = file_state(sample.path)  # before reading: a change meanwhile must be noticed
    try:
      content, facts = stored_video(sample.path, sample.start, sample.end, self._encoding)
    except DecodeError as error:
      return error.reason
    if not is_copied(sample.start, sample.end, self._encoding):
      path = _encoded_path(self._folder, sample)
      path.parent.mkdir(parents=True, exist_ok=True)
      replace_file(path, content)
    return state, facts
