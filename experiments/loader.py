# SPDX-License-Identifier: Apache-2.0
"""Throughput of the loader: `python experiments/loader.py [parent|decode|latency|memory]`.

parent: clips and bytes per second of processor time of the trainer, from processes that only fill
their rows. decode: clips a second from threads, one and two processes, taken in turns; beside the
ratio of clock times the one per second of processor time, since machines are shared. latency: the
same, from bytes that are 50 ms away. memory: of trainer and processes after 1k, 10k and 20k clips.
"""

import dataclasses
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from loader_sources import Filled, write_videos
from vivit_jax.config.file import load
from vivit_jax.config.schema import Clip, Config, Data, Task, Train
from vivit_jax.data.batches import BatchAssembler
from vivit_jax.data.bench import delayed
from vivit_jax.data.buffers import Buffers
from vivit_jax.data.decoders import Processes
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import train_batches
from vivit_jax.data.splits import open_split

ROUNDS = 3
DEMAND = 230  # clips a second that one H100 trains factorised B/16x2 on


def parent() -> None:
  """Prints what one core in the trainer could carry."""
  row, size, batches = (32, 224, 224, 3), 16, 60
  print(
    '| processes | clips/s | trainer CPU ms/clip | clips/s per core | GB/s per core | of demand |'
  )
  print('|---|---|---|---|---|---|')
  for workers in (1, 2, 2, 4):
    examples, buffers = Filled(row), Buffers((size, *row))
    decoders = Processes(examples.reader, row, workers, 60.0)
    stream = BatchAssembler(
      examples, iter(range(10**9)), np.zeros(1, np.int32), batches=10**6, size=size,
      ahead=decoders.tasks,
    ).stream(decoders, buffers)  # fmt: skip
    for _ in range(6):
      next(stream)
    clock, cpu = time.monotonic(), time.process_time()
    for k in range(batches):
      batch = next(stream)
      assert batch['video'][0, 0, 0, 0, 0] == (6 + k) * size % 256
    clock, cpu = time.monotonic() - clock, time.process_time() - cpu
    stream.close()
    clips = size * batches
    rate = clips / cpu
    print(
      f'| {workers} | {clips / clock:.0f} | {cpu / clips * 1e3:.3f} | {rate:.0f} | '
      f'{rate * np.prod(row) / 1e9:.1f} | {rate / DEMAND:.0f}x |', flush=True,
    )  # fmt: skip


def sources() -> Iterable[tuple[str, Config, Manifest, int]]:
  """Yields name, config, training split, and batches for one measurement."""
  config = load(
    ['--config=configs/moving_digits.py', '--config.data.moving_digits.train_videos=256']
  )
  yield 'moving digits', config, open_split(config, 'train'), 16
  with tempfile.TemporaryDirectory() as folder:
    write_videos(Path(folder) / 'data', 24)
    config = Config(
      task=Task(classes=(2,)), clip=Clip(), data=Data(root=f'{folder}/data'),
      train=Train(batch_size=8),
    )  # fmt: skip
    yield 'H.264 340x256', config, open_split(config, 'train'), 16


def rate(config: Config, manifest: Manifest, workers: int, batches: int) -> tuple[float, float]:
  """Returns clips a second and seconds of processor time a clip, once all have started."""
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
  size = config.train.batch_size
  warm = 4 + 16 * max(workers, 1) // size
  before = _cpu()
  stream = train_batches(manifest, config, start_step=0, stop_step=warm + batches, rows=range(size))
  for _ in range(warm):
    next(stream)
  clock = time.monotonic()
  taken = sum(len(batch['id']) for batch in stream)
  clock = time.monotonic() - clock
  return taken / clock, (_cpu() - before) / (size * (warm + batches))


def _cpu() -> float:
  """Returns that of this process and of its children that have ended."""
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(u.ru_utime + u.ru_stime for u in used)


def decode() -> None:
  """Prints threads, one and two processes."""
  print('| source | decoders | clips/s | CPU ms/clip (with start) | of 1 process |')
  print('|---|---|---|---|---|')
  for name, config, manifest, batches in sources():
    found: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}
    for _ in range(ROUNDS):
      for workers, list_ in found.items():
        list_.append(rate(config, manifest, workers, batches))
    ratios = {
      w: statistics.median(a / b for (a, _), (b, _) in zip(found[w], found[1], strict=True))
      for w in found
    }
    for workers, list_ in found.items():
      clips, cpu = (statistics.median(column) for column in zip(*list_, strict=True))
      kind = f'{workers} processes' if workers else f'{len(os.sched_getaffinity(0))} threads'
      print(
        f'| {name} | {kind} | {clips:.0f} | {cpu * 1e3:.1f} | {ratios[workers]:.2f} |', flush=True
      )


def latency() -> None:
  """Prints local bytes against bytes 50 ms away."""
  print('| source | processes | local clips/s | 50 ms away | ratio |')
  print('|---|---|---|---|---|')
  for name, config, manifest, batches in sources():
    near, far = delayed(manifest, 0.0), delayed(manifest, 0.05)
    found = [[rate(config, m, 1, batches)[0] for m in (near, far)] for _ in range(ROUNDS)]
    a, b = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(far / near for near, far in found)
    print(f'| {name} | 1 | {a:.0f} | {b:.0f} | {ratio:.2f} |', flush=True)


def memory() -> None:
  """Prints the resident memory after some clips; processes share that of batches."""
  name, config, manifest, _ = next(iter(sources()))
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=2))
  size = config.train.batch_size
  print(f'| clips ({name}) | trainer MB | processes MB |')
  print('|---|---|---|')
  stream = train_batches(manifest, config, start_step=0, stop_step=10**6, rows=range(size))
  for step, _ in enumerate(stream, 1):
    if step * size in (1024, 4992, 10016, 20000):
      children = Path(f'/proc/{os.getpid()}/task').glob('*/children')
      pids = [pid for file in children for pid in file.read_text().split()]
      print(
        f'| {step * size} | {_pss("self"):.0f} | {", ".join(f"{_pss(p):.0f}" for p in pids)} |',
        flush=True,
      )
    if step * size >= 20000:
      stream.close()
      return


def _pss(pid: str) -> float:
  # Without libraries: their share depends on who else runs.
  lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
  kinds = ('Pss_Anon:', 'Pss_Shmem:')
  return sum(int(line.split()[1]) for line in lines if line.startswith(kinds)) / 1024


if __name__ == '__main__':
  for table in sys.argv[1:] or ('parent', 'decode', 'latency', 'memory'):
    print(f'\n{table}\n')
    {'parent': parent, 'decode': decode, 'latency': latency, 'memory': memory}[table]()
