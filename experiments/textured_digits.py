# SPDX-License-Identifier: Apache-2.0
"""A harder task than moving digits: two digits over a moving texture, and two questions.

`digit` asks how the red digit moves, one of the eight ways of data/moving_digits.py; a blue digit
moves in a way of its own. `texture` asks in which of eight directions the random texture behind
them slides. The red digit covers a twentieth of a clip, the texture nearly all of it. No single
frame tells either.
"""

import math

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from sklearn.datasets import load_digits

from vivit_jax.data.moving_digits import VERBS

FRAMES, SIZE = 8, 24  # of a clip; pixels of a side
DIGIT = (8.0, 13.0)  # pixels of a digit's side
MARGIN = 6  # pixels between a digit's center and the border, at least
RED, BLUE = np.array([235, 70, 60], np.float32), np.array([60, 90, 240], np.float32)
QUESTIONS = ('digit', 'texture')  # columns of the labels; each has eight classes
SHARES = {'train': (0.0, 0.8), 'test': (0.8, 1.0)}  # of scikit-learn's images of digits


def clips(
  split: str, count: int, seed: int = 0, texture: bool = True
) -> tuple[UInt8[np.ndarray, 'n f h w 3'], Int32[np.ndarray, 'n 2']]:
  """Returns clips [N, 8, 24, 24, 3] and labels [N, 2]; no image of a digit is in two splits.

  Without texture the background is gray, and the second label means nothing.
  """
  images = load_digits().images.astype(np.float32) / 16
  low, high = (int(share * len(images)) for share in SHARES[split])
  order = np.random.default_rng(seed).permutation(len(images))[low:high]
  rng = np.random.default_rng([seed, list(SHARES).index(split), 1])
  moves = np.arange(count) % len(VERBS)
  found = [_clip(images[rng.choice(order, 2)], int(move), rng, texture) for move in moves]
  videos, directions = zip(*found, strict=True)
  return np.stack(videos), np.stack([moves, directions], axis=1).astype(np.int32)


def _clip(
  digits: np.ndarray, label: int, rng: np.random.Generator, texture: bool
) -> tuple[UInt8[np.ndarray, 'f h w 3'], int]:
  """Returns a clip and the direction of its texture, an eighth of the full angle."""
  frames, step = _texture(rng)
  if not texture:
    frames[:] = 90
  moves = (int(rng.integers(len(VERBS))), label)  # the red digit lies in front
  for digit, color, move in zip(digits, (BLUE, RED), moves, strict=True):
    ink = cv2.resize(digit, (24, 24), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    for frame, mask in zip(frames, _places(ink, move, rng), strict=True):
      frame += mask[..., None] * (color - frame)
  noise = rng.normal(0, 4, frames.shape).astype(np.float32)
  direction = int(math.atan2(step[1], step[0]) / (2 * math.pi) * 8 % 8)
  return (frames + noise).clip(0, 255).astype(np.uint8), direction


def _texture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Returns float32 frames of a gray texture that slides, and by how much (x, y) in a frame."""
  coarse = rng.uniform(20, 200, (2 * SIZE // 4, 2 * SIZE // 4)).astype(np.float32)
  picture = cv2.resize(coarse, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_CUBIC)
  step = rng.uniform(-2, 2, 2)
  rows = []
  for t in range(FRAMES):
    shift = np.array([[1, 0, -SIZE / 2 - step[0] * t], [0, 1, -SIZE / 2 - step[1] * t]])
    rows.append(cv2.warpAffine(picture, shift, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT))
  return np.repeat(np.stack(rows)[..., None], 3, axis=-1).astype(np.float32), step


def _places(ink: np.ndarray, move: int, rng: np.random.Generator) -> list[np.ndarray]:
  """Returns a digit's opacity in each frame; one of its four phases advances, as in VERBS."""
  phases = dict(zip(('x', 'y', 'angle', 'size'), rng.random(4), strict=True))
  name, sign = tuple(VERBS.values())[move]
  speed = sign / rng.uniform(12, 18)
  found = []
  for t in range(FRAMES):
    at = {**phases, name: (phases[name] + speed * t) % 1.0}
    zoom = DIGIT[0] * (DIGIT[1] / DIGIT[0]) ** at['size'] / len(ink)
    angle = 2 * math.pi * at['angle']
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    center = MARGIN + (SIZE - 2 * MARGIN) * np.array([at['x'], at['y']])
    offset = center - turn @ np.full(2, (len(ink) - 1) / 2)
    found.append(cv2.warpAffine(ink, np.column_stack([turn, offset]), (SIZE, SIZE)))
  return found
