# SPDX-License-Identifier: Apache-2.0
"""The built-in data set: mp4 files of handwritten digits that move in one of eight ways.

The verb is the kind of motion, the noun is the digit. Each digit has four phases in [0, 1), for x,
y, angle and size. One phase advances at a constant rate and wraps around; the verb determines which
one, and its direction. All phases start independent and uniform, so they are uniform in every
single frame for every verb: verbs can be distinguished only by motion.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
from multiprocessing.pool import ThreadPool
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from sklearn.datasets import load_digits
from tqdm import tqdm

from vivit_jax.config.schema import MovingDigits
from vivit_jax.data.tables import as_csv
from vivit_jax.distributed import hosts
from vivit_jax.files import cache_folder, locked

VERSION = 2  # of the generated content; part of the cache key
VERBS = {  # name: (moving phase, direction)
  'left': ('x', -1),
  'right': ('x', 1),
  'up': ('y', -1),
  'down': ('y', 1),
  'clockwise': ('angle', 1),
  'anticlockwise': ('angle', -1),
  'growing': ('size', 1),
  'shrinking': ('size', -1),
}
PHASES = ('x', 'y', 'angle', 'size')
NOUNS = tuple(map(str, range(10)))

FRAMES, RATE = 24, 12  # frames per video; frames per second
HEIGHT, WIDTH = 48, 56  # pixels; not square, so that spatial crops differ
X_RANGE, Y_RANGE = (13.0, 43.0), (13.0, 35.0)  # center of the digit, pixels
SIZES = (14.0, 30.0)  # side of the digit, pixels
PERIODS = (16.0, 22.0)  # frames per cycle of a phase
SHARES = {'train': (0.0, 0.7), 'validation': (0.7, 0.85), 'test': (0.85, 1.0)}  # of the images
ENCODER = {'preset': 'veryfast', 'crf': '20', 'g': '12', 'threads': '1'}


@functools.cache
def _source() -> tuple[np.ndarray, np.ndarray]:
  """Returns scikit-learn's digits: images [1797, 8, 8] in [0, 16] and their labels."""
  digits = load_digits()
  return digits.images, digits.target


@dataclasses.dataclass(frozen=True)
class DigitVideo:
  """Content and random seed of one video."""

  verb: str
  noun: str
  image: int  # index into scikit-learn's digits
  seed: tuple[int, ...]


def digit_videos(config: MovingDigits, split: str) -> list[DigitVideo]:
  """Returns the videos of a split, with verbs and nouns as balanced as possible.

  The source images of each digit are divided 70 / 15 / 15 %, so splits share no image.
  """
  count = getattr(config, f'{split}_videos')
  targets = _source()[1]
  low, high = SHARES[split]
  images = {}
  for digit, noun in enumerate(NOUNS):
    order = np.random.default_rng([config.seed, digit]).permutation(
      np.flatnonzero(targets == digit)
    )
    images[noun] = order[int(low * len(order)) : int(high * len(order))]
  pairs = [(verb, noun) for noun in NOUNS for verb in VERBS]
  result = []
  uses = dict.fromkeys(NOUNS, 0)
  for k in range(count):
    verb, noun = pairs[(k * 27) % len(pairs)]  # 27: visits all pairs, in a mixed order
    image = images[noun][uses[noun] % len(images[noun])]
    uses[noun] += 1
    result.append(DigitVideo(verb, noun, int(image), (config.seed, list(SHARES).index(split), k)))
  return result


def draw(sample: DigitVideo) -> UInt8[np.ndarray, 'f h w 3']:
  """Returns the RGB frames [24, 48, 56, 3] of a video before encoding."""
  rng = np.random.default_rng(sample.seed)
  layers = _layers(sample, rng)
  background = rng.uniform(15, 55) + rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
  frames = background * (1 - layers[..., 3:]) + layers[..., :3]
  return frames.clip(0, 255).astype(np.uint8)


def opacity(sample: DigitVideo) -> Float32[np.ndarray, 'f h w']:
  """Returns the digit's opacity in each frame, [24, 48, 56] in [0, 1]."""
  return _layers(sample, np.random.default_rng(sample.seed))[..., 3]


def _layers(sample: DigitVideo, rng: np.random.Generator) -> Float32[np.ndarray, 'f h w 4']:
  """Returns the digit of each frame without background; draws the first numbers of `rng`."""
  start = dict(zip(PHASES, rng.random(len(PHASES)), strict=True))
  moving, sign = VERBS[sample.verb]
  speed = sign / rng.uniform(*PERIODS)
  glyph = _glyph(sample.image)
  return np.stack(
    [_place(glyph, **{**start, moving: (start[moving] + speed * t) % 1.0}) for t in range(FRAMES)]
  )


def _glyph(image: int) -> Float32[np.ndarray, 'h w 4']:
  """Returns a digit [32, 32, 4]: RGB in [0, 255] times opacity, and opacity in [0, 1].

  The digit is white on a disc with a gradient from red at the top to blue at the bottom, so that
  the rotation of a 0 is visible.
  """
  small = (_source()[0][image] / 16).astype(np.float32)
  stroke = cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
  ramp = np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
  disc_color = (1 - ramp) * np.array([225, 60, 40], np.float32) + ramp * np.array(
    [40, 90, 225], np.float32
  )
  color = stroke * 255 + (1 - stroke) * disc_color
  radius = np.hypot(*np.mgrid[-15.5:16, -15.5:16]).astype(np.float32)[..., None]
  opacity = np.maximum(stroke, (16 - radius).clip(0, 1))
  return np.concatenate([color * opacity, opacity], axis=-1)


def _place(
  glyph: Float32[np.ndarray, 'g g 4'], x: float, y: float, angle: float, size: float
) -> Float32[np.ndarray, 'h w 4']:
  """Returns the glyph on an empty frame [48, 56, 4]; x, y, angle, size are phases in [0, 1)."""
  pixels = SIZES[0] * (SIZES[1] / SIZES[0]) ** size  # grows by the same factor per frame
  zoom = pixels / glyph.shape[0]
  cos, sin = zoom * math.cos(2 * math.pi * angle), zoom * math.sin(2 * math.pi * angle)
  rotation = np.array([[cos, -sin], [sin, cos]])  # clockwise on the screen, where y points down
  center = [np.interp(x, (0, 1), X_RANGE), np.interp(y, (0, 1), Y_RANGE)]
  offset = np.array(center) - rotation @ np.full(2, (glyph.shape[0] - 1) / 2)
  matrix = np.concatenate([rotation, offset[:, None]], axis=1)
  return cv2.warpAffine(glyph, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)


def encode(file: Path, frames: UInt8[np.ndarray, 'f h w 3']) -> None:
  """Writes RGB frames [F, H, W, 3] as H.264 in an mp4 file."""
  with av.open(str(file), 'w') as container:
    stream = container.add_stream('libx264', rate=RATE, options=ENCODER)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())


def ensure(config: MovingDigits) -> Path:
  """Returns the folder of the data set, and generates it first if necessary.

  It is in the cache folder, with a name derived from the settings. A folder gets this name only
  when it is complete, so an interrupted one is generated again. Processes that need the same folder
  wait for each other.
  """
  key = json.dumps([VERSION, dataclasses.asdict(config)], sort_keys=True)
  target = cache_folder(f'moving_digits-{hashlib.sha256(key.encode()).hexdigest()[:12]}')
  if target.is_dir():
    return target
  cache = target.parent
  cache.mkdir(parents=True, exist_ok=True)
  with locked(target.with_suffix('.lock'), 'moving digits', wait=True):
    # With the lock held, temporary folders can only be left by killed processes.
    for leftover in cache.glob(f'{target.name}.tmp*'):
      shutil.rmtree(leftover)
    if not target.is_dir():
      folder = Path(tempfile.mkdtemp(prefix=f'{target.name}.tmp', dir=cache))
      try:
        _generate(config, folder)
        folder.chmod(0o755)  # mkdtemp's folders are private
        folder.rename(target)
      except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
  return target


def _generate(config: MovingDigits, folder: Path) -> None:
  """Writes videos, manifests and class names into an empty folder."""
  (folder / 'classes').mkdir()
  for head, names in (('verb', VERBS), ('noun', NOUNS), ('tags', (*VERBS, *NOUNS))):
    (folder / 'classes' / f'{head}.txt').write_text('\n'.join(names) + '\n')
  jobs = []
  for split in SHARES:
    (folder / split).mkdir()
    rows = [('path', 'verb', 'noun', 'tags')]
    for k, sample in enumerate(digit_videos(config, split)):
      path = f'{split}/{k:05d}.mp4'
      jobs.append((folder / path, sample))
      rows.append((path, sample.verb, sample.noun, f'{sample.verb}|{sample.noun}'))
    (folder / f'{split}.csv').write_bytes(as_csv(rows))
  # Drawing and encoding release the interpreter lock; leaving the block stops the threads.
  with ThreadPool(len(os.sched_getaffinity(0))) as pool:
    done = pool.imap_unordered(lambda job: encode(job[0], draw(job[1])), jobs)
    quiet = not hosts.is_first()
    for _ in tqdm(done, total=len(jobs), desc='moving digits', unit=' videos', disable=quiet):
      pass
