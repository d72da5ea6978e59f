# SPDX-License-Identifier: Apache-2.0
"""Batches of videos, decoded by threads or worker processes with identical results."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vivit_jax.config.schema import Config
from vivit_jax.data.batches import Batch, BatchAssembler, Place
from vivit_jax.data.buffers import Buffers
from vivit_jax.data.decoders import Processes, Threads, automatic
from vivit_jax.data.examples import EvaluationVideos, Examples, TrainingExamples, label
from vivit_jax.data.jobs import Decoders
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pool import cores

AHEAD_BYTES = 2 * 2**30  # bytes of pixels that may be decoded ahead of the consumer


def train_batches(
  manifest: Manifest,
  config: Config,
  *,
  start_step: int,
  stop_step: int,
  rows: Sequence[int],
  place: Place | None = None,
) -> Generator[Batch, None, None]:
  """Yields this host's rows of the global batches of steps [start_step, stop_step).

  Row r of step k is example k * batch_size + r, so batches depend neither on the number of hosts
  and workers nor on the step from which a run was resumed.

  Args:
    manifest: the training split.
    config: `train.batch_size` is over all hosts; `data.workers` processes decode, 0 = threads.
    start_step: step of the first batch.
    stop_step: step after the last batch.
    rows: this host's row indices in every global batch, ascending.
    place: see `BatchAssembler`; e.g. puts arrays on devices.

  Returns:
    Batches of 'video' uint8 [B, F, H, W, 3]; 'label' int32 [B, heads] or multi-hot float32 [B, C];
    'mask' bool [B], all True; 'id' int32 [B], indices in the manifest; 'failures', a list of
    (path, reason). Closing the generator stops the workers.

  Raises:
    DataError: too many videos in a row cannot be read, or no worker can be started.
  """
  size = config.train.batch_size
  numbers = (step * size + row for step in range(start_step, stop_step) for row in rows)
  examples = TrainingExamples(manifest, config)
  return _batches(examples, numbers, manifest, config, stop_step - start_step, len(rows), place)


def evaluation_batches(
  manifest: Manifest,
  config: Config,
  *,
  temporal_views: int,
  spatial_views: int,
  batch_size: int,
  host: int = 0,
  hosts: int = 1,
  every: int = 1,
) -> Generator[Batch, None, None]:
  """Yields the views of the videos host, host + hosts, ... in batches of equal size.

  All hosts yield the same number of batches, as collectives require.

  Args:
    manifest: the split.
    config: config with clip and data settings.
    temporal_views: clips per video.
    spatial_views: crops per clip.
    batch_size: views over all hosts.
    host: this one's number.
    hosts: how many there are.
    every: takes the first of this number of videos and leaves out the others.

  Returns:
    Batches as in `train_batches` with B = batch_size / hosts views; 'mask' is False for videos that
    cannot be read and for padding, whose 'id' is -1. Videos are in order, with all their views
    together. If the manifest has no class names, damaged videos are read as far as possible, and
    'label' is a `Reading`, float64 [B, 4].
  """
  size = batch_size // hosts
  videos = EvaluationVideos(manifest, config, temporal_views, spatial_views)
  numbers = range(0, len(manifest.videos), every)
  most = -(-len(numbers) // hosts)
  mine = iter(numbers[host::hosts])
  return _batches(videos, mine, manifest, config, -(-most * videos.rows // size), size)


def _batches(
  examples: Examples,
  numbers: Iterator[int],
  manifest: Manifest,
  config: Config,
  batches: int,
  size: int,
  place: Place | None = None,
) -> Generator[Batch, None, None]:
  """Yields this number of batches of `size` rows."""
  clip, data = config.clip, config.data
  row = (clip.frames, clip.height, clip.width, 3)
  buffers = Buffers((size, *row))
  decoders: Decoders
  workers = automatic(len(manifest.videos)) if data.workers is None else data.workers
  if workers:
    decoders = Processes(examples.reader, row, workers, data.decode_timeout_seconds)
  else:
    decoders = Threads(examples.reader, buffers)
  padding = np.zeros_like(label(manifest.videos[0], manifest))
  stream = BatchAssembler(
    examples,
    numbers,
    padding,
    batches=batches,
    size=size,
    ahead=min(decoders.tasks * examples.rows, AHEAD_BYTES // math.prod(row)),
    place=place,
  )
  yield from stream.stream(decoders, buffers)


def placing(put: Callable[[Any], Any], cut: Callable[[Any], Any] | None) -> Place:
  """Returns a function that puts videos and labels of batches on devices.

  Args:
    put: puts a tree of arrays on devices.
    cut: see `train.step.host_cut`; None leaves videos whole.
  """

  def place(batch: Batch) -> Batch:
    video = in_parts(cut, batch['video']) if cut else batch['video']
    return {**batch, **put({'video': video, 'label': batch['label']})}

  return place


def in_parts(change: Callable[[np.ndarray], np.ndarray], clips: np.ndarray) -> np.ndarray:
  """Applies `change` to a batch, clip by clip, with one thread per core."""
  with ThreadPoolExecutor(min(cores(), len(clips))) as threads:
    parts = threads.map(change, np.split(clips, len(clips)))
    first = next(parts)
    result = np.empty((len(clips), *first.shape[1:]), first.dtype)
    result[:1] = first
    for row, part in enumerate(parts, 1):
      result[row] = part[0]
  return result
