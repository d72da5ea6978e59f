# SPDX-License-Identifier: Apache-2.0
"""Time to read a clip from a 10-second, 20-minute and 1-hour file of 1920x1080."""

# Run from the repository root (900 MB of files are written):
#   python experiments/long_videos.py [--repeats=5] [--folder=FOLDER]
#   python experiments/long_videos.py --check
# The latter compares times with those of all packets, and pixels of clips at random places and at
# the end with those of the short file, decoded by PyAV from its first frame to its last.
# The long files repeat the packets of the short one, so that all decode alike. Files take turns.
# Cold: the system is asked to forget the file before it is opened.

import argparse
import os
import statistics
import time
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vivit_jax.config.augment import TrainingCrop
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.crop import draw_crop
from vivit_jax.data.video.reader import VideoReader

RATE, SECONDS = 30, 10
CLIPS = 3  # that are compared, cold and warm: at random places and at the end
LENGTHS = {'10 s': 1, '20 min': 120, '1 h': 360}  # times the short file
KINDS = {  # encoder options, suffix, whether frames come at uneven times
  'mp4': ({'bf': '0'}, '.mp4', False),
  'mp4, B-frames': ({'bf': '2'}, '.mp4', False),
  'mp4, variable rate': ({'bf': '2'}, '.mp4', True),
  'mkv, B-frames': ({'bf': '2'}, '.mkv', False),
}


def write_short(file: Path, options: dict[str, str]) -> None:
  """Encodes a camera that moves over a soft texture."""
  rng = np.random.default_rng(0)
  texture = rng.integers(0, 255, (34, 60, 3), np.uint8)
  image = cv2.resize(texture, (2400, 1350), interpolation=cv2.INTER_CUBIC)
  with av.open(str(file), 'w') as container:
    settings = {'preset': 'veryfast', 'crf': '30', 'g': '60', 'threads': '1', **options}
    stream = container.add_stream('libx264', rate=RATE, options=settings)
    stream.width, stream.height, stream.pix_fmt = 1920, 1080, 'yuv420p'
    for k in range(RATE * SECONDS):
      left, top = int(200 + 180 * np.sin(k / 20)), int(120 + 100 * np.cos(k / 31))
      part: Any = np.ascontiguousarray(image[top : top + 1080, left : left + 1920])
      container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format='rgb24')))
    container.mux(stream.encode())


def repeat(source: Path, file: Path, times: int, uneven: bool) -> None:
  """Writes the packets of a short file `times` times; uneven: every other copy at half speed."""
  with av.open(str(source)) as container:
    stream: Any = container.streams.video[0]
    packets: Any = (p for p in container.demux(stream) if p.size)
    stored = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
    ticks = int(SECONDS / Fraction(stream.time_base))
    start, first = 0, stored[0][2]
    delay = min(pts for _, pts, _, _ in stored) - first
    with av.open(str(file), 'w') as target:
      copy: Any = target.add_stream_from_template(stream)
      for k in range(times):
        slow = 2 if uneven and k % 2 else 1
        for data, pts, dts, key in stored:
          packet = av.Packet(data)
          packet.stream, packet.time_base = copy, stream.time_base
          packet.pts, packet.dts = (start + first + slow * (t - first) for t in (pts, dts))
          packet.is_keyframe = key
          target.mux(packet)
        start += slow * ticks + (slow - 1) * delay  # else two frames would share a time


def ensure(folder: Path) -> dict[tuple[str, str], Path]:
  """Returns the files by kind and length, written if missing."""
  folder.mkdir(parents=True, exist_ok=True)
  files = {}
  for number, (kind, (options, suffix, uneven)) in enumerate(KINDS.items()):
    short = folder / f'short{number}.mp4'
    if not short.exists():
      write_short(short, options)
    for length, times in LENGTHS.items():
      files[kind, length] = file = folder / f'{number}_{times}{suffix}'
      if not file.exists():
        repeat(short, file, times, uneven)
  return files


def forget(file: Path) -> None:
  """Asks the system to drop what it holds of a file."""
  with file.open('rb') as handle:
    os.fsync(handle.fileno())
    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(file: Path, cold: bool, seed: int) -> tuple[float, float, float]:
  """Returns milliseconds to open (processor time), for a clip (the same), and elapsed."""
  rng = np.random.default_rng(seed)
  crop = draw_crop(Clip(), TrainingCrop(), False, rng)
  share = rng.random()
  if cold:
    forget(file)
  wall, begin = time.perf_counter(), time.process_time()
  with VideoReader(str(file)) as reader:
    opened = time.process_time()
    # The same frames of the repeated part in every file, so that decoding takes the same.
    place = int(share * (RATE * SECONDS - 64))
    middle = reader.frames // (RATE * SECONDS) // 2 * RATE * SECONDS
    reader.read(middle + place + 2 * np.arange(32), crop)
  return tuple(
    1000 * t for t in (opened - begin, time.process_time() - begin, time.perf_counter() - wall)
  )  # type: ignore[return-value]


def check(short: Path, file: Path) -> str:
  """Returns what differs between a file, read at random places, and what it repeats."""
  with av.open(str(short)) as container:
    images = (frame.to_ndarray(format='rgb24') for frame in container.decode(video=0))
    expected = [zlib.crc32(image.tobytes()) for image in images]
  with av.open(str(file)) as container:
    stream: Any = container.streams.video[0]
    shown = np.sort([packet.pts for packet in container.demux(stream) if packet.size])
    seconds = (shown - shown[0]) * float(stream.time_base)
  wrong, read = 0, 0
  for cold in (True, False):
    if cold:
      forget(file)
    rng = np.random.default_rng(int(cold))
    with VideoReader(str(file)) as reader:
      same = np.array_equal(reader.times, seconds)
      for start in (*rng.integers(reader.frames - 63, size=CLIPS - 1), reader.frames - 63):
        indices = start + 2 * np.arange(32)
        for index, image in zip(indices, reader.read(indices), strict=True):
          wrong += zlib.crc32(image) != expected[index % len(expected)]
          read += 1
  times = 'equal' if same else 'DIFFER'
  return f'{file.name}: {len(shown)} frames, times {times}; {wrong} of {read} frames read differ'


def main() -> None:
  """Prints a row per kind and state of the cache."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--repeats', type=int, default=5, help='(default: %(default)s)')
  parser.add_argument('--folder', type=Path, default=Path('runs/long_videos'), help='of the videos')
  parser.add_argument('--check', action='store_true', help='compare, and take no times')
  options = parser.parse_args()
  files = ensure(options.folder)
  if options.check:
    for file in files.values():
      print(check(options.folder / f'short{file.name[0]}.mp4', file), flush=True)
    return
  print('| file | cache | ' + ' | '.join(f'{n}: open / clip' for n in LENGTHS) + ' | 1 h / 10 s |')
  print('|---|---|' + '---|' * (len(LENGTHS) + 1))
  for kind in KINDS:
    for cold in (False, True):
      found: dict[str, list[tuple[float, float, float]]] = {length: [] for length in LENGTHS}
      for turn in range(options.repeats + 1):
        for length in LENGTHS:
          figures = measure(files[kind, length], cold, turn)
          if turn:  # the first warms up, and keeps times where they are kept
            found[length].append(figures)
      cells = [
        ' / '.join(f'{statistics.median(f[k] for f in found[n]):.0f}' for k in (0, 1))
        for n in LENGTHS
      ]
      both = [
        statistics.median(b[k] / a[k] for a, b in zip(found['10 s'], found['1 h'], strict=True))
        for k in (1, 2)
      ]
      row = [kind, 'cold' if cold else 'warm', *cells, f'{both[0]:.2f} ({both[1]:.2f} elapsed)']
      print('| ' + ' | '.join(row) + ' |', flush=True)


if __name__ == '__main__':
  main()
