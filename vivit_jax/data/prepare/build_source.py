# SPDX-License-Identifier: Apache-2.0
"""What a folder of manifests asks `vivit data build` to prepare: one sample per row."""

import dataclasses
import hashlib
from pathlib import Path

from vivit_jax.config import Task
from vivit_jax.data.manifest import SEPARATOR, SPLITS, Manifest, read_manifest
from vivit_jax.data.prepare.shards import is_prepared
from vivit_jax.errors import DataError


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
class Source:
  """All that the manifests list."""

  heads: tuple[Head, ...]
  samples: tuple[Sample, ...]  # by split, in file order
  fingerprint: str  # of rows and class names


def read_source(root: Path) -> Source:
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
  return Source(heads, tuple(samples), digest.hexdigest()[:16])


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
