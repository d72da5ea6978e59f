# SPDX-License-Identifier: Apache-2.0
"""CPU time to decode and crop one training clip, with this package's reader and with others."""

# Run from the repository root, with the [bench] extra and FFmpeg's shared libraries installed:
#   python experiments/decoders.py [--repeats=5] [--folder=FOLDER]
# Every reader runs on one thread and gives the same 32 frames, each cropped and resized to 224 x
# 224. Readers take turns, so that a busy machine is busy for all of them.

import argparse
import importlib
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from tqdm import tqdm

from decoder_sources import SOURCES, Source, ensure
from vivit_jax.config.augment import TrainingCrop
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.crop import draw_crop
from vivit_jax.data.prepare.encode import Encoding, stored_video
from vivit_jax.data.video.frames import Crops
from vivit_jax.data.video.reader import VideoReader

cv2.setNumThreads(1)
Read = Callable[[Path, np.ndarray, Crops], np.ndarray]
VIDEOS, CLIPS = 2, 4  # of a kind; of each video
ALIKE = 4.0  # mean difference of pixels, of 255, up to which frames count as the same


def ours(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """vivit_jax."""
  with VideoReader(str(file)) as reader:
    return reader.read(indices, crop)


def prepared(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """vivit_jax, from the bytes that `vivit data build` stores."""
  with VideoReader('', content=file.with_suffix('.prepared').read_bytes()) as reader:
    return reader.read(indices, crop)


def pyav(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """PyAV as its documentation shows it: seek, decode, to_ndarray."""
  found: dict[int, np.ndarray] = {}
  with av.open(str(file)) as container:
    stream: Any = container.streams.video[0]
    stream.codec_context.thread_count = 1
    step = 1 / (float(stream.average_rate) * float(stream.time_base))
    container.seek(int(indices[0] * step), stream=stream)
    for frame in container.decode(stream):
      index = round(frame.pts / step)
      if index in indices:
        found[index] = crop(frame.to_ndarray(format='rgb24'))
      if index >= indices.max():
        break
  return np.stack([found[i] for i in indices])


def torchcodec(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """TorchCodec: exact seeking; its own crop and resize took longer than OpenCV's."""
  importlib.import_module('torch').set_num_threads(1)
  decoders = importlib.import_module('torchcodec.decoders')
  decoder = decoders.VideoDecoder(str(file), num_ffmpeg_threads=1, dimension_order='NHWC')
  frames = decoder.get_frames_at(indices.tolist()).data.numpy()
  return np.stack([crop(frame) for frame in frames])


def decord(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """Decord."""
  module = importlib.import_module('decord')
  frames = module.VideoReader(str(file), num_threads=1).get_batch(indices.tolist()).asnumpy()
  return np.stack([crop(frame) for frame in frames])


def opencv(file: Path, indices: np.ndarray, crop: Crops) -> np.ndarray:
  """OpenCV's VideoCapture; frames between those wanted are not converted."""
  capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
  capture.set(cv2.CAP_PROP_POS_FRAMES, int(indices[0]))
  found = []
  for index in range(indices[0], indices[-1] + 1):
    capture.grab()
    if index in indices:
      found.append(crop(np.ascontiguousarray(capture.retrieve()[1]))[..., ::-1])
  capture.release()
  return np.stack(found)


READERS: dict[str, Read] = {
  f.__name__: f for f in (ours, pyav, torchcodec, decord, opencv, prepared)
}


def measure(source: Source, folder: Path, repeats: int) -> dict:
  """Returns CPU milliseconds per clip and mean difference from ours, by reader."""
  files = [ensure(folder, source, seed) for seed in range(VIDEOS)]
  for file in files:
    target = file.with_suffix('.prepared')
    if not target.exists():
      target.write_bytes(stored_video(str(file), None, None, Encoding(256, 12))[0])
  clip, rng, jobs = Clip(), np.random.default_rng(0), []
  frames = source.seconds * source.rate
  stride = 2 if frames > 2 * clip.frames else 1
  for file in files * CLIPS:
    start = rng.integers(frames - stride * (clip.frames - 1))
    indices = start + stride * np.arange(clip.frames)
    jobs.append((file, indices, draw_crop(clip, TrainingCrop(), False, rng)))
  times: dict[str, list[float]] = {name: [] for name in READERS}
  away: dict[str, float] = {}
  for turn in tqdm(range(repeats + 1), desc=source.name, disable=None):
    for name, read in READERS.items():
      begin = time.process_time()
      clips = [read(*job) for job in jobs]
      taken = (time.process_time() - begin) / len(jobs)
      if turn:
        times[name].append(1000 * taken)
        continue
      if name == 'ours':
        expected = clips
      pairs = zip(clips, expected, strict=True)
      away[name] = float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))
      if away[name] > ALIKE:
        raise SystemExit(f'{name} gives other frames of {source.name}: {away[name]:.1f} levels off')
  return {
    'source': source.name,
    'kilobits': round(statistics.mean(f.stat().st_size for f in files) / 125 / source.seconds),
    'ms': {name: statistics.median(values) for name, values in times.items()},
    'ratio': {
      name: statistics.median(b / a for a, b in zip(times['ours'], values, strict=True))
      for name, values in times.items()
    },
    'difference': away,
  }


def table(rows: list[dict]) -> str:
  """Returns Markdown: milliseconds, and in brackets how many times ours."""
  lines = [
    '| source | kb/s | ' + ' | '.join(READERS) + ' |',
    '|---|---' + '|---' * len(READERS) + '|',
  ]
  for row in rows:
    cells = [f'{row["ms"][n]:.0f} ({row["ratio"][n]:.2f})' for n in READERS]
    lines.append(f'| {row["source"]} | {row["kilobits"]} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def main() -> None:
  """Prints the table and writes it with all numbers to FOLDER/decoders.json."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=5, help='(default: %(default)s)')
  parser.add_argument('--folder', type=Path, default=Path('runs/decoders'), help='of the videos')
  options = parser.parse_args()
  rows = []
  for source in SOURCES:
    rows.append(measure(source, options.folder, options.repeats))
    (options.folder / 'decoders.json').write_text(json.dumps(rows, indent=1) + '\n')
    print(table(rows[-1:]), flush=True)
  names = ('av', 'torch', 'torchcodec', 'decord', 'opencv-python-headless')
  print(', '.join(f'{name} {importlib.metadata.version(name)}' for name in names))
  print('CPU ms per clip on one thread (times ours), medians\n\n' + table(rows))
  worst = max(value for row in rows for value in row['difference'].values())
  print(f'\nlargest mean difference between the pixels of two readers: {worst:.2f} of 255')


if __name__ == '__main__':
  main()
