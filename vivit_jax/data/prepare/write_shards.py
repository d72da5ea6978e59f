# SPDX-License-Identifier: Apache-2.0
"""The second part of a build: writes shards with tensorflow-datasets and verifies them."""

import contextlib
import errno
import functools
import hashlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from vivit_jax.data.prepare.encode import Encoding, Facts, is_copied
from vivit_jax.data.prepare.samples import Finished, Head, Sample
from vivit_jax.data.prepare.shards import NAME, VERSION, WORK, Shards
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError

SHARD = 2**28  # maximum bytes of video per shard; the writer holds one shard in memory

Item = tuple[Sample, Facts]


class Videos(tfds.core.ShardBasedBuilder):
  """Encoded videos with labels, as a data set of tensorflow-datasets, without TensorFlow.

  GeneratorBasedBuilder needs TensorFlow for temporary files of splits over 1 GiB; here the shards
  are written one by one in the order of the manifests. Only feature types that do not need
  TensorFlow are used.
  """

  name = NAME
  VERSION = tfds.core.Version(VERSION)
  # Empty, since nothing is downloaded; the default needs importlib_resources, which may be missing.
  url_infos: ClassVar[dict[str, Any]] = {}

  def __init__(self, folder: Path, heads: tuple[Head, ...], shards: dict[str, list], content: Any):
    """Takes the items of each shard by split, and a function from item to bytes."""
    self._heads, self._shards, self._content = heads, shards, content
    super().__init__(data_dir=folder, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features
    labels = {head.name: features.ClassLabel(names=head.classes) for head in self._heads}
    for head in self._heads:
      if head.tags:
        labels[head.name] = features.Sequence(labels[head.name])
    return tfds.core.DatasetInfo(
      builder=self,
      description='Encoded videos with their labels, in the order of the manifests.',
      features=features.FeaturesDict(
        {
          'video': features.Scalar(np.object_),  # the bytes of a file
          'labels': labels,
          'id': features.Text(),
          'frames': features.Scalar(np.int64),
          'fps': features.Scalar(np.float32),
          'sha256': features.Text(),
        }
      ),
    )

  def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
    del dl_manager
    return {
      split: [functools.partial(self._examples, items) for items in shards]
      for split, shards in self._shards.items()
    }

  def _examples(self, items: list[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
    for sample, facts in items:
      pairs = zip(self._heads, sample.labels, strict=True)
      yield (
        sample.index,
        {
          'video': self._content(sample, facts),
          'labels': {head.name: list(ids) if head.tags else ids[0] for head, ids in pairs},
          'id': sample.name,
          'frames': facts.frames,
          'fps': facts.fps,
          'sha256': facts.sha256,
        },
      )


def write_shards(
  target: Path, heads: tuple[Head, ...], items: dict[str, list[Item]], content: Any
) -> None:
  """Writes `target/videos/1.0.0`, which appears only when it is complete.

  Raises:
    OSError: the folder is not writable.
  """
  if (target / NAME / VERSION).is_dir():
    return
  for leftover in (target / NAME).glob('incomplete*'):
    shutil.rmtree(leftover)
  with tqdm(total=sum(map(len, items.values())), desc='writing', unit=' videos') as bar:

    def counted(sample: Sample, facts: Facts) -> bytes:
      bar.update()
      return content(sample, facts)

    shards = {split: cut(rows) for split, rows in items.items()}
    builder = Videos(target, heads, shards, counted)
    with contextlib.redirect_stdout(io.StringIO()), _os_errors():  # hides messages about downloads
      builder.download_and_prepare(download_dir=target / WORK / 'downloads')


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
  """Converts errors of the C++ writer to OSError."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(errno.EIO, ' '.join(str(error).split())) from error


def cut(items: list[Item]) -> list[list[Item]]:
  """Splits a list of items into shards."""
  shards: list[list[Item]] = [[]]
  size = 0
  for item in items:
    if size + item[1].size > SHARD and shards[-1]:
      shards.append([])
      size = 0
    shards[-1].append(item)
    size += item[1].size
  return shards


def verify(target: Path, heads: tuple[Head, ...], items: dict[str, list[Item]]) -> None:
  """Reads every record back; if one differs, removes the shards and raises DataError."""
  folder = target / NAME / VERSION
  with tqdm(total=sum(map(len, items.values())), desc='reading back', unit=' videos') as bar:
    for split, rows in items.items():
      shards = Shards(folder, split, tuple(sample.name for sample, _ in rows))
      try:
        count = shards.records()
        if count != len(rows):
          raise DecodeError(split, f'{count} records of {len(rows)}')
        for index, (sample, facts) in enumerate(rows):
          _compare(shards.record(index), sample, facts, heads)
          bar.update()
      except DecodeError as error:
        shutil.rmtree(folder)
        raise DataError(
          f'{error}: it was not written correctly; the shards were removed, run the same command '
          'again to write them anew'
        ) from None


def _compare(record: dict[str, Any], sample: Sample, facts: Facts, heads: tuple[Head, ...]) -> None:
  pairs = zip(heads, sample.labels, strict=True)
  expected = {
    'labels': {head.name: list(ids) if head.tags else ids[0] for head, ids in pairs},
    'id': sample.name.encode(),
    'frames': facts.frames,
    'fps': float(np.float32(facts.fps)),
    'sha256': facts.sha256.encode(),
  }
  video = record['video']
  found = {**record, 'labels': {n: _plain(v) for n, v in record['labels'].items()}}
  del found['video']
  if found != expected:
    raise DecodeError(sample.name, f'its record has {found} instead of {expected}')
  if not isinstance(video, bytes) or hashlib.sha256(video).hexdigest() != facts.sha256:
    raise DecodeError(sample.name, 'its record has other bytes than were written')


def _plain(labels: Any) -> Any:
  return np.asarray(labels).tolist()


def stored_content(finished: Finished, encoding: Encoding, sample: Sample, facts: Facts) -> bytes:
  """Returns the bytes of a finished sample; raises DataError if they have changed."""
  copied = is_copied(sample.start, sample.end, encoding)
  path = Path(sample.path) if copied else finished.path(sample)
  try:
    content = path.read_bytes()
  except OSError as error:
    raise DataError(f'{path}: {error.strerror}, though it was read before') from error
  if hashlib.sha256(content).hexdigest() != facts.sha256:
    raise DataError(f'{path} changed since it was checked: delete the target and build again')
  return content
