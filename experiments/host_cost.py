# SPDX-License-Identifier: Apache-2.0
"""Host overhead of a run: `python experiments/host_cost.py [step] [feed] [stall] [save]`.

step: microseconds of the main thread's processor time a step, by what it does, with a tiny model on
one and on eight virtual devices. feed: bytes a second from decoders that only fill their rows to
eight virtual devices, and what that takes of a core. stall: clips that threads and processes decode
in the second after an asynchronous save has begun, by those of the second before. save: the share
of the time that the run of configs/moving_digits.py waits for data in the 20 steps after such a
save, and in all others, with decoding threads and with processes, in turns. Machines are shared:
read processor time first.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loader_sources import Filled
from markdown_table import markdown
from vivit_jax.data.batches import BatchAssembler
from vivit_jax.data.buffers import Buffers
from vivit_jax.data.decoders import Processes, automatic
from vivit_jax.data.pool import cores

CONFIG = '--config=configs/moving_digits.py'
DEVICES = 8
WANTED = 9e9  # bytes a second to a node of eight devices
CLIP = (32, 224, 224, 3)


def on_devices(count: int, table_name: str) -> list[list[Any]]:
  """Returns the rows of a table, measured in a process with `count` virtual devices."""
  flags = f'--xla_force_host_platform_device_count={count} {os.environ.get("XLA_FLAGS", "")}'
  done = subprocess.run(
    [sys.executable, __file__, '--rows', table_name],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


class Stages:
  """Adds up the main thread's processor time by what it was spent on."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}

  def timed(self, stage: str, call: Callable) -> Callable:
    """Returns the same function, whose time is counted."""

    @functools.wraps(call)
    def counted(*args: Any, **kwargs: Any) -> Any:
      began = time.thread_time()
      try:
        return call(*args, **kwargs)
      finally:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.thread_time() - began

    return counted


def step_rows() -> list[list[Any]]:
  """Runs the real train loop on a tiny model and returns [what, microseconds a step]."""
  import jax

  from vivit_jax.config.file import load
  from vivit_jax.train import loop

  warm, steps = 60, 360
  tiny = {
    'model.layers': 1, 'model.temporal_layers': 1, 'model.width': 8, 'model.mlp_dim': 8,
    'model.heads': 2, 'clip.frames': 2, 'clip.height': 16, 'clip.width': 16, 'train.batch_size': 8,
    'augment.crop.short_side': 16, 'train.steps': steps + 1, 'train.evaluate_every': 10**6,
    'train.checkpoint_every': 10**6, 'data.moving_digits.train_videos': 64,
    'data.moving_digits.validation_videos': 8, 'data.moving_digits.test_videos': 8,
    'evaluate.batch_size': 8,
  }  # fmt: skip
  stages, marks = Stages(), {}

  class Log(loop.RunLog):
    done = 0

    def advance(self) -> None:
      super().advance()
      self.done += 1
      if self.done in (warm, steps):
        marks[self.done] = (time.thread_time(), dict(stages.seconds))

  make = loop.compile_step
  loop.RunLog = Log  # type: ignore[misc]
  loop.compile_step = lambda *args: stages.timed('dispatch of the step', make(*args))
  reads = loop.MetricsBuffer.add
  loop.MetricsBuffer.add = stages.timed('metrics of the step before', reads)  # type: ignore[method-assign]
  Log.train = stages.timed('rows of the log', Log.train)  # type: ignore[method-assign]
  with tempfile.TemporaryDirectory() as folder:
    changes = [f'--config.{name}={value}' for name, value in tiny.items()]
    loop.train(load([CONFIG, *changes]), Path(folder) / 'run')
  (before, first), (after, last) = marks[warm], marks[steps]
  each = 1e6 / (steps - warm)
  rows: list[list[Any]] = [[name, (last[name] - first.get(name, 0.0)) * each] for name in last]
  whole = (after - before) * each
  rows += [['all else', whole - sum(value for _, value in rows)], ['whole step', whole]]
  return [[f'{jax.device_count()} devices: {name}', value] for name, value in rows]


def feed_rows() -> list[list[Any]]:
  """Returns rows of rates from processes that only fill memory to the virtual devices."""
  import jax

  from vivit_jax.distributed.mesh import make_mesh
  from vivit_jax.distributed.sharding import shard_batch

  mesh, size, batches = make_mesh(None), 8 * jax.device_count(), 40
  size_bytes = size * int(np.prod(CLIP))

  def place(batch: dict) -> dict:
    return shard_batch(mesh, {name: batch[name] for name in ('video', 'label')})

  rows = []
  for workers in (1, 2):
    examples, buffers = Filled(CLIP), Buffers((size, *CLIP))
    decoders = Processes(examples.reader, CLIP, workers, 60.0)
    stream = BatchAssembler(
      examples, iter(range(10**9)), np.zeros(1, np.int32), batches=10**6, size=size,
      ahead=decoders.tasks, place=place,
    ).stream(decoders, buffers)  # fmt: skip
    for _ in range(6):
      next(stream)
    pids = [process._child.pid for process in decoders._processes]
    clock, cpu, theirs = time.monotonic(), time.process_time(), _seconds(pids)
    for _ in range(batches):
      jax.block_until_ready(next(stream))
    clock, cpu = time.monotonic() - clock, time.process_time() - cpu
    theirs = _seconds(pids) - theirs
    stream.close()
    moved = size_bytes * batches
    rows.append([workers, *(moved / seconds / 1e9 for seconds in (clock, cpu, theirs))])
  return rows


def _seconds(pids: list[int]) -> float:
  """Returns the processor time of running processes."""
  total = 0
  for pid in pids:
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    total += int(fields[11]) + int(fields[12])
  return total / os.sysconf('SC_CLK_TCK')


def stall_rows(rounds: int, saves: int = 12) -> Iterator[list[str]]:
  """Yields a row for each way of decoding; rounds take turns, as machines are shared."""
  import jax

  from vivit_jax.checkpoint.manager import Checkpoints
  from vivit_jax.config.file import load
  from vivit_jax.data.pipeline import train_batches
  from vivit_jax.data.splits import open_split, with_classes
  from vivit_jax.model.vivit import build
  from vivit_jax.train.optimizer import make_optimizer
  from vivit_jax.train.state import init_state

  size = 8
  config = with_classes(load([CONFIG, f'--config.train.batch_size={size}']))
  data = open_split(config, 'train')
  state = jax.device_put(init_state(config, build(config), make_optimizer(config.train, 800)))

  def rate(stream: Iterator) -> float:
    began, clips = time.monotonic(), 0
    while time.monotonic() - began < 1.0:
      clips += len(next(stream)['id'])
    return clips / (time.monotonic() - began)

  ratios: dict[int, list[float]] = {0: [], 2: []}
  for _ in range(rounds):
    for workers, found in ratios.items():
      changed = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
      stream = train_batches(data, changed, start_step=0, stop_step=10**6, rows=range(size))
      with (
        contextlib.closing(stream),
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder) / 'run', 2) as checkpoints,
      ):
        for step in range(1, saves + 2):
          before = rate(stream)
          checkpoints.save(step, state, {})
          found += [rate(stream) / before] if step > 1 else []  # the first one prepares
          checkpoints.wait_for(step)
  for workers, found in ratios.items():
    name = f'{workers} processes' if workers else f'{cores()} threads'
    yield [name, f'{statistics.median(found):.2f}', f'{min(found):.2f} to {max(found):.2f}']


def data_waits(workers: str, folder: Path, steps: int, every: int) -> tuple[float, float]:
  """Returns the share of waiting in rows right after a save, and in the others but the first."""
  settings = {
    'train.steps': steps, 'train.checkpoint_every': every, 'train.evaluate_every': 10**6,
    'data.moving_digits.validation_videos': 8, 'data.moving_digits.test_videos': 8,
    'data.workers': workers,
  }  # fmt: skip
  changes = [f'--config.{name}={value}' for name, value in settings.items()]
  subprocess.run(
    [sys.executable, '-m', 'vivit_jax', 'train', CONFIG, *changes, f'--workdir={folder}'],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  rows = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  rows = [row for row in rows if 'data_wait' in row][1:]
  after = [row['data_wait'] for row in rows if row['step'] % every == 20]
  others = [row['data_wait'] for row in rows if row['step'] % every != 20]
  return statistics.mean(after), statistics.mean(others)


def save(rounds: int, steps: int) -> Iterator[list[str]]:
  """Yields a row for each way of decoding."""
  found: dict[str, list[tuple[float, float]]] = {'0': [], 'None': []}
  with tempfile.TemporaryDirectory() as folder:
    for turn in range(rounds):
      for workers, waits in found.items():
        waits.append(data_waits(workers, Path(folder) / f'{workers}-{turn}', steps, 100))
  names = {'0': f'{cores()} threads', 'None': f'{automatic(10**6)} processes (the default)'}
  for workers, waits in found.items():
    after, others = zip(*waits, strict=True)
    spread = f'{min(after):.1%} to {max(after):.1%}'
    yield [
      names[workers], f'{statistics.median(after):.1%}', spread, f'{statistics.median(others):.1%}',
    ]  # fmt: skip


def main() -> None:
  """Prints the tables that were asked for."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('tables', nargs='*', help='step, feed, stall, save (all)')
  add('--rows', choices=('step', 'feed'), help=argparse.SUPPRESS)
  add('--rounds', type=int, default=3, help='of the runs with saves (%(default)s)')
  add('--steps', type=int, default=320, help='of each (%(default)s)')
  options = parser.parse_args()
  if options.rows:
    print(json.dumps(step_rows() if options.rows == 'step' else feed_rows()))
    return
  for name in options.tables or ('step', 'feed', 'stall', 'save'):
    print(f'\n{name}\n')
    if name == 'step':
      rows = [*on_devices(1, 'step'), *on_devices(DEVICES, 'step')]
      print(markdown(['main thread', 'microseconds'], [[what, f'{us:.0f}'] for what, us in rows]))
    elif name == 'feed':
      heads = ['processes', 'GB/s', 'GB/s per core of the trainer', 'GB/s per core that decodes',
               'cores for 9 GB/s']  # fmt: skip
      print(markdown(heads, [
        [f'{n:.0f}', f'{rate:.1f}', f'{ours:.1f}', f'{theirs:.1f}',
         f'{WANTED / 1e9 * (1 / ours + 1 / theirs):.1f}']
        for n, rate, ours, theirs in on_devices(DEVICES, 'feed')
      ]))  # fmt: skip
    elif name == 'stall':
      heads = ['decoders', 'clips/s after by before', 'least to most']
      print(markdown(heads, list(stall_rows(options.rounds))))
    else:
      heads = ['decoders', 'data_wait after a save', 'least to most', 'other rows']
      print(markdown(heads, list(save(options.rounds, options.steps))))


if __name__ == '__main__':
  main()
