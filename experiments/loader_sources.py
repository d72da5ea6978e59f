# SPDX-License-Identifier: Apache-2.0
"""Data for `loader.py`: real videos of Kinetics' usual size, and a reader that takes no time."""

import dataclasses
from pathlib import Path

import av
import numpy as np

from vivit_jax.data.examples import LabeledViews, Request
from vivit_jax.data.manifest import Manifest, Video

HEIGHT, WIDTH = 256, 340


@dataclasses.dataclass(frozen=True)
class Filler:
  """A reader that takes no time: pixels are the number of the example."""

  manifest: Manifest
  clip: tuple[int, int, int, int]  # [F, H, W, 3]

  def __call__(self, request: Request) -> LabeledViews:
    """Returns one clip of one value."""
    pixels = np.broadcast_to(np.uint8(request.number % 256), (1, *self.clip))
    return pixels, np.array([request.number], np.int32)


class Filled:
  """Examples that a Filler reads."""

  rows = 1

  def __init__(self, clip: tuple[int, int, int, int]):
    """Takes the shape of a clip."""
    self.reader = Filler(Manifest('none', (), {}, '', False), clip)

  def request(self, number: int, failures: list) -> Request:
    """Returns the only one."""
    return Request(number, 0, number, Video(f'{number:060}.mp4', None, None, (0,)))

  def label(self, number: int) -> np.ndarray:
    """Is not asked for."""
    raise NotImplementedError


def write_videos(root: Path, videos: int, frames: int = 250) -> None:
  """Writes a folder of manifests over H.264 videos of 340 x 256, a key frame every 12."""
  rng = np.random.default_rng(0)
  (root / 'classes').mkdir(parents=True)
  (root / 'classes' / 'label.txt').write_text('a\nb\n')
  rows = ['path,label']
  for k in range(videos):
    coarse = rng.integers(0, 256, (40, 50, 3), np.uint8)
    scene = np.kron(coarse, np.ones((10, 10, 1), np.uint8)) // 2
    scene += rng.integers(0, 60, scene.shape, np.uint8)
    with av.open(str(root / f'{k}.mp4'), 'w') as container:
      stream = container.add_stream('libx264', rate=25, options={'g': '12', 'preset': 'veryfast'})
      stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, 'yuv420p'
      for i in range(frames):
        top, left = i % (scene.shape[0] - HEIGHT), (2 * i) % (scene.shape[1] - WIDTH)
        image = np.ascontiguousarray(scene[top : top + HEIGHT, left : left + WIDTH])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
      container.mux(stream.encode())
    rows.append(f'{k}.mp4,{"ab"[k % 2]}')
  for split in ('train', 'validation'):
    (root / f'{split}.csv').write_text('\n'.join(rows) + '\n')
