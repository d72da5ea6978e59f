# SPDX-License-Identifier: Apache-2.0
"""Reads 1,000 damaged videos in worker processes and counts the outcomes."""

# Run from the repository root: python experiments/mutants.py [--count=N] [--out=mutants.json]

import argparse
import dataclasses
import hashlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from vivit_jax.data.pool import Lost, run_all
from vivit_jax.data.prepare.check import MEGABYTES
from vivit_jax.data.video.reader import DecodeError, VideoReader
from vivit_jax.data.worker import Work

FRAMES, SECONDS = 24, 20.0  # of each video; that one may take
SOURCES = {
  'mp4 H.264': ('.mp4', 'libx264', {'crf': '23'}),
  'mov H.264 with B-frames': ('.mov', 'libx264', {'crf': '23', 'bf': '3'}),
  'mp4 HEVC': ('.mp4', 'libx265', {'crf': '23', 'x265-params': 'log-level=none'}),
  'webm VP9': ('.webm', 'libvpx-vp9', {'crf': '30', 'b': '0'}),
  'mkv H.264': ('.mkv', 'libx264', {'crf': '23'}),
  'avi MPEG-4': ('.avi', 'mpeg4', {'b': '500k'}),
  'ts MPEG-2': ('.ts', 'mpeg2video', {'b': '500k'}),
}
DAMAGE = ('cut off', 'bits', 'bytes', 'zeros', 'header', 'lost piece')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What one video gave."""

  source: str
  damage: str
  result: str  # equal | silently different | other length | refused | lost process
  reason: str
  seconds: float
  megabytes: float  # peak beyond what the process had before


def originals(folder: Path) -> dict[str, Path]:
  """Writes one video of moving noise per source."""
  rng = np.random.default_rng(0)
  noise = np.kron(rng.integers(0, 255, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
  files: dict[str, Path] = {}
  for name, (suffix, codec, options) in SOURCES.items():
    files[name] = folder / f'{len(files)}{suffix}'
    with av.open(str(files[name]), 'w') as container:
      stream: Any = container.add_stream(codec, rate=10, options={'g': '12', **options})
      stream.width, stream.height, stream.pix_fmt = 128, 96, 'yuv420p'
      for k in range(FRAMES):
        image = np.ascontiguousarray(np.roll(noise, 3 * k, axis=1))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
      container.mux(stream.encode())
  return files


def mutate(content: bytes, damage: str, rng: np.random.Generator) -> bytes:
  """Returns a damaged copy."""
  data = bytearray(content)
  at = int(rng.integers(len(data)))
  match damage:
    case 'cut off':
      del data[at:]
    case 'bits':
      for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    case 'bytes':
      noise = rng.integers(256, size=int(rng.integers(1, 300)), dtype=np.uint8).tobytes()
      data[at : at + len(noise)] = noise[: len(data) - at]
    case 'zeros':
      size = min(int(rng.integers(1, 2000)), len(data) - at)
      data[at : at + size] = bytes(size)
    case 'header':  # numbers that lie, where containers have their tables
      edge = min(1500, len(data) - 8)
      at = int(rng.integers(edge)) if rng.integers(2) else len(data) - 8 - int(rng.integers(edge))
      size = int(rng.choice([1, 2, 4, 8]))
      value = int(rng.choice([0, 1, 10**5, 10**9, 2**31 - 1, 2**32 - 1])) % 2 ** (8 * size)
      data[at : at + size] = value.to_bytes(size, rng.choice(['little', 'big']))
    case _:
      del data[at : at + int(rng.integers(1, 500))]
  return bytes(data)


def read(file: str) -> tuple[str, str, float, float]:
  """Returns a hash of all frames or '', the reason or '', seconds, and megabytes at the peak."""
  Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
  before, start = _status('VmRSS'), time.perf_counter()
  try:
    with VideoReader(file) as reader:
      frames = reader.read(np.arange(reader.frames))
    found = f'{len(frames)}:{hashlib.sha256(frames.tobytes()).hexdigest()}', ''
  except DecodeError as error:
    found = '', error.reason
  return *found, time.perf_counter() - start, _status('VmHWM') - before


class Read(Work):
  """Reads videos in other processes."""

  def __call__(self, file: str) -> tuple[str, str, float, float]:
    """Returns what `read` does."""
    return read(file)


def _status(name: str) -> float:
  text = Path('/proc/self/status').read_text()
  return int(text[text.index(name) :].split()[1]) / 1024


def survey(count: int, workers: int = 2, seed: int = 0) -> list[Outcome]:
  """Returns what `count` damaged videos gave, of each source and each damage alike."""
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    files = originals(folder)
    true = {name: read(str(file))[0] for name, file in files.items()}
    contents = {name: file.read_bytes() for name, file in files.items()}
    rng, outcomes = np.random.default_rng(seed), []
    kinds: dict[str, tuple[str, str]] = {}  # by file
    for k in range(count):
      source, damage = list(files)[k % len(files)], DAMAGE[k // len(files) % len(DAMAGE)]
      file = folder / f'mutant{k}{files[source].suffix}'
      file.write_bytes(mutate(contents[source], damage, rng))
      kinds[str(file)] = source, damage
    tasks = ((file, SECONDS) for file in kinds)
    stream = run_all(Read(), tasks, workers, megabytes=MEGABYTES)
    for file, found in tqdm(stream, 'mutants', count, unit='video', disable=None):
      source, damage = kinds[file]
      outcomes.append(Outcome(source, damage, *_judge(found, true[source])))
  return outcomes


def _judge(result: Any, true: str) -> tuple[str, str, float, float]:
  if isinstance(result, Lost):
    return 'lost process', repr(result), SECONDS, 0.0
  found, reason, seconds, megabytes = result
  if reason:
    return 'refused', reason, seconds, megabytes
  if found == true:
    return 'equal', '', seconds, megabytes
  same = found.partition(':')[0] == true.partition(':')[0]
  return 'silently different' if same else 'other length', '', seconds, megabytes


def table(outcomes: list[Outcome]) -> str:
  """Returns results by source, and reasons by kind."""
  results = ('equal', 'silently different', 'other length', 'refused', 'lost process')
  lines = [f'{"":24}' + ''.join(f'{result:>20}' for result in results)]
  for source in (*SOURCES, 'all'):
    counts = Counter(o.result for o in outcomes if source in (o.source, 'all'))
    lines.append(f'{source:24}' + ''.join(f'{counts[result]:20}' for result in results))
  kinds = Counter(o.reason.partition(':')[0] for o in outcomes if o.reason)
  lines += ['', *(f'{count:6}  {kind}' for kind, count in kinds.most_common())]
  slowest = max(outcomes, key=lambda o: o.seconds)
  largest = max(outcomes, key=lambda o: o.megabytes)
  lines.append(
    f'\nlongest {slowest.seconds:.2f} s ({slowest.source}, {slowest.damage}); '
    f'most memory {largest.megabytes:.0f} MB ({largest.source}, {largest.damage})'
  )
  return '\n'.join(lines)


def main() -> None:
  """Prints the table and writes each outcome."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--count', type=int, default=1000, help='(default: %(default)s)')
  parser.add_argument('--out', type=Path, help='JSON file to write')
  options = parser.parse_args()
  outcomes = survey(options.count)
  print(table(outcomes))
  if options.out:
    rows: list[dict[str, Any]] = [dataclasses.asdict(outcome) for outcome in outcomes]
    options.out.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
  import mutants  # by this name the processes find what they do

  mutants.main()
