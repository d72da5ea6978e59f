# SPDX-License-Identifier: Apache-2.0
"""Prepared videos: their bytes by index from the ArrayRecord shards of `vivit data build`.

A prepared folder is a folder of manifests whose videos lie in shards: rows stand in the order of
the records. So labels are read without the videos, and what an experiment asks of manifests holds
for both.
"""

import bisect
import dataclasses
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError as ProtobufError

from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import Manifest, read_manifest
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError, one_line

FACTS = 'prepared.json'  # counts, hashes and sizes; written last, so it says that all is there
WORK = '.building'  # what an unfinished build goes on from
NAME, VERSION = 'videos', '1.0.0'  # of the data set in tensorflow-datasets
DAMAGED = (
  RuntimeError,
  ValueError,
  OSError,
  ProtobufError,
)  # what damaged shards were seen to raise


def is_prepared(root: Path) -> bool:
  """Whether a folder holds prepared videos; raises DataError where their build is unfinished."""
  if (root / WORK).is_dir() and not (root / FACTS).is_file():
    raise DataError(
      f'{root} is not finished: run its `vivit data build` again, it goes on from there'
    )
  return (root / FACTS).is_file()


def open_prepared(root: Path, split: str, task: Task) -> Manifest:
  """Returns a split of prepared videos.

  Its fingerprint covers the SHA-256 of every video, which are a column of its rows.

  Raises:
    DataError: as `read_manifest`; a manifest that was edited; a shard missing or cut off.
  """
  manifest = read_manifest(root, split, task)
  facts = json.loads((root / FACTS).read_text())['splits'][split]
  file = root / f'{split}.csv'
  if hashlib.sha256(file.read_bytes()).hexdigest() != facts['manifest']:
    raise DataError(
      f'{file} was edited: its rows must stay those of the shards; change the manifest of the '
      'source and build again'
    )
  for name, size in facts['shards'].items():
    shard = root / NAME / VERSION / name
    found = shard.stat().st_size if shard.is_file() else None
    if found != size:
      what = 'is missing' if found is None else f'has {found:,} bytes'
      raise DataError(f'{shard} {what}, {size:,} were written: copy or build it again')
  paths = tuple(video.path for video in manifest.videos)
  return dataclasses.replace(manifest, contents=Shards(root / NAME / VERSION, split, paths))


class Shards:
  """The videos of a split by index; for several threads, and sent to other processes.

  Every process opens the shards for itself, at its first read: open files don't survive the way
  into another process. That imports tensorflow-datasets there: 0.65 s of processor time alone and
  0.3 s beside what a worker imports anyhow, once; no TensorFlow.
  """

  def __init__(self, folder: Path, split: str, paths: tuple[str, ...]):
    """Takes the data set's folder and the names that errors give the videos."""
    self._folder, self._split, self._paths = folder, split, paths
    self._forget()

  def records(self) -> int:
    """Returns how many the shards hold."""
    return len(self._opened())

  def __getitem__(self, index: int) -> bytes:
    """Raises DecodeError where the record is damaged."""
    video = self.record(index)['video']
    assert isinstance(video, bytes)
    return video

  def record(self, index: int) -> dict[str, Any]:
    """Returns all that the shards hold of a video; raises DecodeError."""
    try:
      record = self._opened()[index]
      missing = [name for name, value in record.items() if value is None]
    except DAMAGED as error:
      reason = f'{self._where(index)}: {one_line(error)}'
      raise DecodeError(self._paths[index], reason) from error
    if missing:  # what a shard cut off at a multiple of 64 KiB may give
      raise DecodeError(self._paths[index], f'{self._where(index)} has no {", ".join(missing)}')
    return record

  def __getstate__(self) -> dict[str, Any]:
    return {'_folder': self._folder, '_split': self._split, '_paths': self._paths}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._forget()

  def _forget(self) -> None:
    self._lock = threading.Lock()
    self._source: Any = None
    self._process = 0

  def _opened(self) -> Any:
    if self._process != os.getpid():  # a forked process has the parent's reader, not its threads
      self._lock = threading.Lock()
      self._source, self._process = None, os.getpid()
    with self._lock:
      if self._source is None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        self._source = builder.as_data_source(self._split)
      return self._source

  def _where(self, index: int) -> str:
    """Returns which record of which shard a video is."""
    info = json.loads((self._folder / 'dataset_info.json').read_text())
    lengths = next(s['shardLengths'] for s in info['splits'] if s['name'] == self._split)
    ends = [sum(map(int, lengths[: k + 1])) for k in range(len(lengths))]
    shard = bisect.bisect_right(ends, index)
    first = ends[shard - 1] if shard else 0
    name = shard_name(self._split, shard, len(lengths))
    return f'record {index - first} of {self._folder / name}'


def shard_name(split: str, shard: int, shards: int) -> str:
  """Returns what tensorflow-datasets calls a shard."""
  return f'{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}'
