# SPDX-License-Identifier: Apache-2.0
"""Synthetic videos in the formats of public data sets: moving shapes on moving color waves."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

SHAPES = 10  # in every frame


@dataclasses.dataclass(frozen=True)
class Source:
  """How the videos of one kind are stored."""

  name: str
  width: int
  height: int
  rate: int  # frames per second
  seconds: int
  codec: str
  bits: str  # per second
  key_frames: int
  options: tuple[tuple[str, str], ...] = ()

  @property
  def suffix(self) -> str:
    """Of the file."""
    return '.webm' if 'vp9' in self.codec else '.mp4'


SOURCES = (
  Source('H.264 340x256, key frames every 12', 340, 256, 30, 10, 'libx264', '500k', 12),
  Source('H.264 340x256, key frames every 250', 340, 256, 30, 10, 'libx264', '500k', 250),
  Source(
    'VP9 427x240 (Something-Something)',
    *(427, 240, 12, 5, 'libvpx-vp9', '300k', 128),
    (('deadline', 'realtime'), ('cpu-used', '5')),
  ),
  Source(
    'H.264 1920x1080, key frames every 250 (Epic-Kitchens)',
    *(1920, 1080, 50, 8, 'libx264', '6M', 250),
    (('preset', 'veryfast'),),
  ),
)


def ensure(folder: Path, source: Source, seed: int) -> Path:
  """Returns a video of this kind; written if it is not there."""
  words = ''.join(c if c.isalnum() else '_' for c in source.name)
  file = folder / f'{words}_{seed}{source.suffix}'
  if not file.exists():
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f'part_{file.name}')
    _write(part, source, seed)
    part.replace(file)
  return file


def _write(file: Path, source: Source, seed: int) -> None:
  options = {'g': str(source.key_frames), 'b': source.bits, **dict(source.options)}
  with av.open(str(file), 'w') as container:
    stream: Any = container.add_stream(source.codec, rate=source.rate, options=options)
    stream.width, stream.height, stream.pix_fmt = source.width, source.height, 'yuv420p'
    for image in _images(source, seed):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
    container.mux(stream.encode())


def _images(source: Source, seed: int) -> Iterator[np.ndarray]:
  """Yields RGB frames, uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  phase, speed = rng.uniform(0, 6, (SHAPES, 2)), rng.uniform(0.5, 2.5, (SHAPES, 2))
  sizes, colours = rng.uniform(0.04, 0.16, SHAPES), rng.integers(0, 255, (SHAPES, 3)).tolist()
  height, width = source.height, source.width
  y, x = np.mgrid[0:240, 0 : 240 * width // height] / 240
  for t in np.arange(source.seconds * source.rate) / source.rate:
    waves = (
      60 * np.sin(6 * x + t) + 20 * np.cos(5 * y - 0.7 * t),
      50 * np.sin(4 * (x + y) - 0.5 * t) + 15 * np.sin(40 * x + 3 * t),
      60 * np.cos(3 * x - 4 * y + 0.9 * t) + 15 * np.sin(50 * y - t),
    )
    small = np.clip(np.stack(waves, -1) + 125, 0, 255).astype(np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    places = (0.5 + 0.5 * np.sin(phase + speed * t)) * (width, height)
    for k, (place, size, colour) in enumerate(zip(places.astype(int), sizes, colours, strict=True)):
      side = int(size * height)
      if k % 2:
        cv2.circle(image, place.tolist(), side, colour, -1, cv2.LINE_AA)
      else:
        cv2.rectangle(image, place.tolist(), (place + side).tolist(), colour, -1)
    yield image
