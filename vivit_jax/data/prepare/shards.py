# SPDX-License-Identifier: Apache-2.0
"""Reads prepared videos by index from the ArrayRecord shards of `vivit data build`.

A prepared folder is a folder of manifests whose videos are in shards, with rows in the order of the
records. Labels are read without the videos, and manifests work as for unprepared data.
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

FACTS = 'prepared.json'  # counts, hashes and sizes; written last, so it marks a complete build
WORK = '.building'  # work folder, from which an unfinished build resumes
NAME, VERSION = 'videos', '1.0.0'  # of the data set in tensorflow-datasets
DAMAGED = (
  RuntimeError,
  ValueError,
  OSError,
  ProtobufError,
)  # exceptions that damaged shards were observed to raise


def is_prepared(root: Path) -> bool:
  """Returns whether a folder has prepared videos; raises DataError if the build is unfinished."""
  if (root / WORK).is_dir() and not (root / FACTS).is_file():
    raise DataError(
      f'{root} is not finished: run its `vivit data build` command again to resume it'
    )
  return (root / FACTS).is_file()


def open_prepared(root: Path, split: str, task: Task) -> Manifest:
  """Returns a split of prepared videos.

  The fingerprint covers the SHA-256 of every video, which is a column of the manifest.

  Raises:
    DataError: see `read_manifest`; or a manifest was edited, or a shard is missing or truncated.
  """
  manifest = read_manifest(root, split, task)
  facts = json.loads((root / FACTS).read_text())['splits'][split]
  file = root / f'{split}.csv'
  if hashlib.sha256(file.read_bytes()).hexdigest() != facts['manifest']:
    raise DataError(
      f'{file} was edited, but its rows must match the shards: edit the manifest of the source '
      'and build again'
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
  """The videos of a split by index; thread-safe and picklable.

  Every process opens the shards on its first read, because open files cannot be pickled. This
  imports tensorflow-datasets (without TensorFlow): 0.65 s of CPU time, or 0.3 s in a worker that
  has already imported the rest.
  """

  def __init__(self, folder: Path, split: str, paths: tuple[str, ...]):
    """Takes the folder and split of the data set, and the names of the videos for messages."""
    self._folder, self._split, self._paths = folder, split, paths
    self._forget()

  def records(self) -> int:
    """Returns the number of records in the shards."""
    return len(self._opened())

  def __getitem__(self, index: int) -> bytes:
    """Returns the bytes of a video; raises DecodeError if the record is damaged."""
    video = self.record(index)['video']
    assert isinstance(video, bytes)
    return video

  def record(self, index: int) -> dict[str, Any]:
    """Returns all fields of a record; raises DecodeError."""
    try:
      record = self._opened()[index]
      missing = [name for name, value in record.items() if value is None]
    except DAMAGED as error:
      reason = f'{self._where(index)}: {one_line(error)}'
      raise DecodeError(self._paths[index], reason) from error
    if missing:  # e.g. in a shard truncated at a multiple of 64 KiB
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
    if self._process != os.getpid():  # a forked process inherits the reader but not its threads
      self._lock = threading.Lock()
      self._source, self._process = None, os.getpid()
    with self._lock:
      if self._source is None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(self._folder)
        self._source = builder.as_data_source(self._split)
      return self._source

  def _where(self, index: int) -> str:
    """Returns the shard and record of a video, for messages."""
    info = json.loads((self._folder / 'dataset_info.json').read_text())
    lengths = next(s['shardLengths'] for s in info['splits'] if s['name'] == self._split)
    ends = [sum(map(int, lengths[: k + 1])) for k in range(len(lengths))]
    shard = bisect.bisect_right(ends, index)
    first = ends[shard - 1] if shard else 0
    name = shard_name(self._split, shard, len(lengths))
    return f'record {index - first} of {self._folder / name}'


def shard_name(split: str, shard: int, shards: int) -> str:
  """Returns the file name of a shard in tensorflow-datasets."""
  return f'{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}'
