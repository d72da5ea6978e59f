# SPDX-License-Identifier: Apache-2.0
"""Batches of videos, decoded by threads or worker processes, the same whoever decodes them."""

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import grain
import numpy as np
from absl import flags

from vivit_jax.config import Config
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.records import EvaluationVideos, Record, TrainingExamples, label

Batch = dict[str, Any]  # as in TrainingExamples, a leading axis added; 'failures' is one list


def train_batches(
  manifest: Manifest, config: Config, *, start_step: int, stop_step: int, rows: tuple[int, int]
) -> Generator[Batch, None, None]:
  """Yields this host's rows of the global batches of steps [start_step, stop_step).

  Row r of step k is example k * batch_size + r, so that batches depend on neither the number of
  hosts and workers nor on where a run was resumed.

  Args:
    manifest: of the training split.
    config: `train.batch_size` is over all hosts; `data.workers` processes decode, 0 = threads.
    start_step: of the first batch.
    stop_step: one after that of the last batch.
    rows: [low, high) of every global batch.

  Returns:
    Batches of 'video' uint8 [B, F, H, W, 3]; 'label' int32 [B, heads] or multi-hot float32 [B, C];
    'mask' bool [B], all True; 'id' int32 [B], indices in the manifest; 'failures', a list of
    (path, reason). Closing the generator stops the workers.

  Raises:
    DataError: too many videos in a row cannot be read.
  """
  low, high = rows
  numbers = _Numbers(start_step, config.train.batch_size, low, high - low)
  source = grain.MapDataset.range((stop_step - start_step) * (high - low))
  examples = source.map(numbers).map(TrainingExamples(manifest, config))
  ahead = max(2 * _threads(), high - low)
  records = _prefetched(examples, config.data.workers, ahead)
  yield from _closing(records.batch(high - low, drop_remainder=True, batch_fn=_collate))


def evaluation_batches(
  manifest: Manifest,
  config: Config,
  *,
  temporal_views: int,
  spatial_views: int,
  batch_size: int,
  host: int = 0,
  hosts: int = 1,
) -> Generator[Batch, None, None]:
  """Yields the views of the videos host, host + hosts, ... in batches of one size.

  Every host yields the same number of batches, which programs that run on all of them need.

  Args:
    manifest: of the split.
    config: its clip and data settings.
    temporal_views: clips per video.
    spatial_views: crops per clip.
    batch_size: views over all hosts.
    host: this one's number.
    hosts: how many there are.

  Returns:
    Batches as in `train_batches` with B = batch_size / hosts views; 'mask' is False for videos that
    cannot be read and for padding, whose 'id' is -1.
  """
  size, views = batch_size // hosts, temporal_views * spatial_views
  videos = EvaluationVideos(manifest, config, temporal_views, spatial_views)
  mine = grain.MapDataset.range(host, len(manifest.videos), hosts).map(videos)
  most = -(-len(manifest.videos) // hosts)
  left = -(-most * views // size)
  pending: list[Record] = []
  for record in _closing(_prefetched(mine, config.data.workers, 2 * _threads())):
    pending += _views(record)
    while len(pending) >= size:
      yield _collate(pending[:size])
      del pending[:size]
      left -= 1
  for _ in range(left):
    padding = [_padding(manifest, config)] * (size - len(pending))
    yield _collate(pending + padding)
    pending = []


@dataclasses.dataclass(frozen=True)
class _Numbers:
  """Where an example of this host stands in the global stream."""

  start_step: int
  batch_size: int
  low: int
  rows: int

  def __call__(self, i: int) -> int:
    step, row = divmod(i, self.rows)
    return (self.start_step + step) * self.batch_size + self.low + row


def _prefetched(dataset: grain.MapDataset, workers: int, ahead: int) -> grain.IterDataset:
  """Computes records in their order, `ahead` of the consumer by threads or 2 per process."""
  if workers == 0:
    return dataset.to_iter_dataset(grain.ReadOptions(_threads(), prefetch_buffer_size=ahead))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain hands flags on to its workers
  return dataset.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1)).mp_prefetch(
    grain.MultiprocessingOptions(workers, per_worker_buffer_size=2), worker_init_fn=_end_with_parent
  )


def _threads() -> int:
  return len(os.sched_getaffinity(0))


def _end_with_parent(index: int, count: int) -> None:
  """Makes a worker exit when the trainer is gone, however that ended; else it waits for ever."""
  del index, count
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the trainer ends its workers
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _closing(dataset: grain.IterDataset) -> Iterator[Any]:
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    iterator.close()


def _collate(records: Sequence[Record]) -> Batch:
  batch: Batch = {
    name: np.stack([r[name] for r in records]) for name in ('video', 'label', 'mask', 'id')
  }
  return {**batch, 'failures': [failure for r in records for failure in r['failures']]}


def _views(record: Record) -> list[Record]:
  """Splits a video's record into one per view; its failure is told once."""
  rows = [{**record, 'video': view, 'failures': []} for view in record['video']]
  rows[0]['failures'] = record['failures']
  return rows


def _padding(manifest: Manifest, config: Config) -> Record:
  clip = config.clip
  return {
    'video': np.zeros((clip.frames, clip.height, clip.width, 3), np.uint8),
    'label': np.zeros_like(label(manifest.videos[0], manifest)),
    'mask': np.bool_(False),
    'id': np.int32(-1),
    'failures': [],
  }
