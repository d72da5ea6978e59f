# SPDX-License-Identifier: Apache-2.0
"""Measures the time of a clip per stage, from file to device, and the throughput of workers.

`delayed` adds a latency to local videos to simulate an object store.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vivit_jax.config.schema import Config
from vivit_jax.data import pipeline
from vivit_jax.data.examples import TrainingExamples
from vivit_jax.data.jobs import Task, run_task
from vivit_jax.data.manifest import Contents, Manifest
from vivit_jax.data.timing import STAGES, collect_timings
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import ConfigError

TURNS = 3  # per number of workers, interleaved so that other load affects all alike


@dataclasses.dataclass(frozen=True)
class StageTime:
  """Milliseconds per clip of one stage, in one thread."""

  name: str
  cpu: float
  wall: float


@dataclasses.dataclass(frozen=True)
class Rate:
  """Throughput with `workers` processes; medians over turns."""

  workers: int  # 0 = threads of the trainer, one per core
  clips_per_second: float
  parent_ms: float  # CPU milliseconds of the training process per clip


@dataclasses.dataclass(frozen=True)
class Report:
  """Results of the benchmark."""

  clips: int  # measured for the stages, and in each turn of each rate
  clip_bytes: int
  unreadable: int  # clips with an unreadable video; not included in `stages`
  stages: tuple[StageTime, ...]
  rates: tuple[Rate, ...]
  demand: float  # clips per second of one device
  latency: float  # seconds added to each fetch

  @property
  def cpu(self) -> float:
    """CPU milliseconds per clip, over all stages that run in a worker."""
    return sum(stage.cpu for stage in self.stages if stage.name != 'transfer')

  def cores(self, devices: int) -> float:
    """Returns the number of cores needed to feed this many devices."""
    return devices * self.demand * self.cpu / 1000


def bench(
  manifest: Manifest,
  config: Config,
  *,
  clips: int,
  workers: Sequence[int],
  demand: float,
  latency: float = 0.0,
) -> Report:
  """Measures the training split.

  Args:
    manifest: training split, already wrapped by `delayed` if a latency is simulated.
    config: config of the training run.
    clips: clips to read for the stages, and again in each turn of each number of workers.
    workers: numbers of processes to try; 0 = threads.
    demand: clips per second that one device processes.
    latency: simulated latency in seconds; only for the report.

  Raises:
    DataError: the videos cannot be read.
  """
  config = dataclasses.replace(
    config,
    train=dataclasses.replace(
      # At least four batches, because the first one waits for the workers to start.
      config.train,
      batch_size=max(1, min(config.train.batch_size, clips // 4)),
    ),
  )
  stages, unreadable = _stages(manifest, config, clips)
  turns: dict[int, list[Rate]] = {count: [] for count in workers}
  for _ in range(TURNS):
    for count in workers:
      turns[count].append(_rate(manifest, config, clips, count))
  rates = tuple(
    Rate(
      count,
      statistics.median(rate.clips_per_second for rate in found),
      statistics.median(rate.parent_ms for rate in found),
    )
    for count, found in turns.items()
  )
  clip = config.clip
  size = clip.frames * clip.height * clip.width * 3
  return Report(clips, size, unreadable, stages, rates, demand, latency)


def _stages(manifest: Manifest, config: Config, clips: int) -> tuple[tuple[StageTime, ...], int]:
  """Returns the stages in order, and the number of unreadable clips."""
  import jax

  clip, size = config.clip, config.train.batch_size
  batch = np.zeros((size, clip.frames, clip.height, clip.width, 3), np.uint8)
  jax.block_until_ready(jax.device_put(batch))  # the first transfer includes device startup
  examples = TrainingExamples(manifest, config)
  unreadable, sent = 0, 0
  with collect_timings() as clock:
    for number in tqdm(range(clips), desc='stages', unit='clip', disable=None):
      request = examples.request(number, [])
      with clock.stage('other'):
        task = Task(number, request, ((0, number % size),))
        result = run_task(task, examples.reader, lambda place: batch[place[1]])
      unreadable += result.failure is not None
      if (number + 1) % size == 0:
        with clock.stage('transfer'):
          jax.block_until_ready(jax.device_put(batch))
        sent += size
  read = max(1, clips - unreadable)
  counts = dict.fromkeys((*STAGES, 'other'), read) | {'transfer': max(1, sent)}
  return tuple(
    StageTime(name, 1000 * clock.cpu[name] / count, 1000 * clock.wall[name] / count)
    for name, count in counts.items()
    if name in clock.cpu
  ), unreadable


def _rate(manifest: Manifest, config: Config, clips: int, workers: int) -> Rate:
  """Reads batches as the trainer does; excludes the first one, which waits for workers to start."""
  size = config.train.batch_size
  steps = max(2, clips // size)
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
  batches = pipeline.train_batches(
    manifest, config, start_step=0, stop_step=steps, rows=range(size)
  )
  bar = tqdm(total=steps * size, desc=f'{workers} workers', unit='clip', disable=None)
  with bar:
    next(batches)
    bar.update(size)
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in batches:
      bar.update(size)
    taken, cpu = time.perf_counter() - begin, time.process_time() - cpu
  counted = (steps - 1) * size
  return Rate(workers, counted / taken, 1000 * cpu / counted)


def as_json(result: Report) -> dict[str, Any]:
  """Returns the measured and derived values as JSON values."""
  return {
    **dataclasses.asdict(result),
    'cpu_ms': result.cpu,
    'cores_of_one_device': result.cores(1),
    'cores_of_eight_devices': result.cores(8),
  }


def as_text(result: Report) -> str:
  """Returns the results as text tables."""
  lines = [f'{"stage":<10}{"CPU ms":>8}{"ms":>8}   per clip, one thread, {result.clips} clips']
  lines += [f'{s.name:<10}{s.cpu:8.2f}{s.wall:8.2f}' for s in result.stages]
  lines.append(f'{"worker":<10}{result.cpu:8.2f}           all but the transfer')
  if result.unreadable:
    lines.append(f'{result.unreadable} clips could not be read and are not counted')
  if result.latency:
    lines.append(f'every video is {1000 * result.latency:g} ms away')
  lines += ['', f'{"workers":<10}{"clips/s":>8}{"MB/s":>8}{"parent CPU ms/clip":>20}']
  for rate in result.rates:
    speed = rate.clips_per_second
    lines.append(
      f'{rate.workers or "threads":<10}{speed:8.1f}{speed * result.clip_bytes / 1e6:8.0f}'
      f'{rate.parent_ms:20.2f}'
    )
  flow = result.demand * result.clip_bytes / 1e9
  lines += ['', f'{"devices":<10}{"clips/s":>8}{"GB/s":>8}{"cores":>8}']
  lines += [f'{n:<10}{n * result.demand:8.0f}{n * flow:8.1f}{result.cores(n):8.1f}' for n in (1, 8)]
  return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class Files:
  """The bytes of local files."""

  paths: tuple[str, ...]

  def __getitem__(self, index: int) -> bytes:
    """Returns the content of a file; raises DecodeError."""
    try:
      return Path(self.paths[index]).read_bytes()
    except OSError as error:
      raise DecodeError(self.paths[index], f'{type(error).__name__}: {error.strerror}') from None


@dataclasses.dataclass(frozen=True)
class Delayed:
  """Wraps other contents and adds a latency to each read."""

  contents: Contents
  seconds: float

  def __getitem__(self, index: int) -> bytes:
    """Returns the content of a video after the latency; raises DecodeError."""
    time.sleep(self.seconds)
    return self.contents[index]


def delayed(manifest: Manifest, seconds: float) -> Manifest:
  """Returns the manifest with a latency of `seconds` for each video."""
  if manifest.items is not None:
    raise ConfigError(
      '--simulate-latency delays files, but your own data source has none: leave it out'
    )
  contents = manifest.contents or Files(tuple(video.path for video in manifest.videos))
  return dataclasses.replace(manifest, contents=Delayed(contents, seconds))
