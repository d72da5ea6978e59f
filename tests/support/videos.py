# SPDX-License-Identifier: Apache-2.0
"""Real video files whose frames say which they are, and manifests of them."""

from pathlib import Path

import av
import numpy as np

from vivit_jax.config.schema import Clip, Config, Data, Task, Train

FIRST, STEP = 10, 6  # gray level of frame 0, and how much brighter each next one is


def write_video(
  file: Path, frames: int = 24, height: int = 48, width: int = 64, codec: str = 'libx264', **options
) -> Path:
  """Encodes at 10 frames per second; frame i is gray FIRST + STEP * i. Key frames every 12."""
  levels = np.arange(frames, dtype=np.uint8) * STEP + FIRST
  images = np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3))
  return write_images(file, images, codec, **options)


def write_images(file: Path, images: np.ndarray, codec: str = 'libx264', **options) -> Path:
  """Encodes RGB images uint8 [F, H, W, 3] at 10 frames per second."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(file), 'w') as container:
    options = {'g': '12', 'crf': '5', 'b': '2M', **options}
    stream = container.add_stream(codec, rate=10, options=options)
    stream.height, stream.width = images.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for image in images:
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return file


def numbers(video: np.ndarray) -> np.ndarray:
  """Returns which frames [..., H, W, 3] of `write_video` these are."""
  levels = video.astype(float).mean(axis=(-3, -2, -1))
  found = np.round((levels - FIRST) / STEP)
  assert np.abs(levels - FIRST - STEP * found).max() < STEP / 2 - 0.5
  return found.astype(int)


def write_dataset(root: Path, videos: int, frames: int = 24) -> Path:
  """Writes train.csv and validation.csv over the same videos, labelled a, b, a, b, ..."""
  (root / 'classes').mkdir(parents=True)
  (root / 'classes' / 'label.txt').write_text('a\nb\n')
  rows = ['path,label']
  for k in range(videos):
    write_video(root / f'{k}.mp4', frames)
    rows.append(f'{k}.mp4,{"ab"[k % 2]}')
  for split in ('train', 'validation'):
    (root / f'{split}.csv').write_text('\n'.join(rows) + '\n')
  return root


def config(batch_size: int = 4, clip: Clip | None = None, **data) -> Config:
  """Returns the configuration of a run on `write_dataset`."""
  return Config(
    task=Task(classes=(2,)),
    clip=clip or Clip(frames=4, stride=2, height=32, width=32),
    data=Data(**{'workers': 0, **data}),
    train=Train(batch_size=batch_size),
  )
