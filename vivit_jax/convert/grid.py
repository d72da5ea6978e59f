# SPDX-License-Identifier: Apache-2.0
"""From numbers of positions to the clip they belong to, where only one clip is possible."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.convert.errors import CheckpointError

SIDES = ('frames', 'height', 'width')


def solve(
  path: Path, settings: Mapping[str, Any], positions: Mapping[str, int]
) -> tuple[tuple[int, int, int], int, list[str]]:
  """Returns (frames, height, width), tokens along time, and messages on what is still unknown.

  One number of positions over time and space together (3136 in B/16x2) fits many clips: it takes
  frames, or height and width. Positions over space alone are taken as square where they can be.

  Args:
    path: for messages.
    settings: `patch`; where known `clip.frames`, `clip.height`, `clip.width`, `tokenizer`,
      `sampled_frames`.
    positions: tokens per stage, without cls.

  Raises:
    CheckpointError: where what is known does not fit the positions.
  """
  t, h, w = settings['patch']
  frames, height, width = (settings.get(f'clip.{name}') for name in SIDES)
  uniform = settings.get('tokenizer') == 'uniform_frame_sampling'
  time = _tokens(path, 'frames', frames, t)
  if uniform:
    time = _tokens(path, 'sampled_frames', settings.get('sampled_frames'), 1)
  high, wide = _tokens(path, 'height', height, h), _tokens(path, 'width', width, w)
  both, space = positions.get('spacetime'), positions.get('spatial')
  time = _agree(path, 'frames', time, positions.get('temporal'))
  if high and wide:
    space = _agree(path, 'height x width', space, high * wide)
  if both and space:
    time = _agree(path, 'frames', time, _divide(path, both, space))
  elif both and time:
    space = _divide(path, both, time)
  unclear = []
  if space and not high and not wide:
    high = wide = math.isqrt(space)
    if high * wide != space:
      unclear.append(f'height and width (positions hold {space} = H x W tokens, not a square)')
  elif space and (high or wide):
    high, wide = high or _divide(path, space, wide or 1), wide or _divide(path, space, high or 1)
  elif both:
    options = ', '.join(f'{both // s**2 * t}x{s * h}x{s * w}' for s in _square_roots(both))
    unclear.append(
      f'frames, or height and width (positions hold {both} = T x H x W tokens; with square frames '
      f'that is one of the clips {options})'
    )
  if time and frames is None and not uniform:
    frames = time * t
  if frames is None and not (both and not space):
    unclear.append('frames (the tensors do not depend on it)')
  found = (frames or 0, (high or 0) * h, (wide or 0) * w)
  if not unclear and both and (time or 0) * (high or 0) * (wide or 0) != both:
    raise CheckpointError(path, f'positions hold {both} tokens, a clip of {found} has others')
  return found, time or 0, unclear


def _tokens(path: Path, name: str, size: Any, patch: int) -> int | None:
  if size is None:
    return None
  if type(size) is not int or size < 1 or size % patch:
    raise CheckpointError(path, f'{name}={size!r} is no positive multiple of the patch {patch}')
  return size // patch


def _agree(path: Path, name: str, first: int | None, second: int | None) -> int | None:
  if first and second and first != second:
    raise CheckpointError(path, f'{name} means {first} tokens, the positions hold {second}')
  return first or second


def _divide(path: Path, total: int, part: int) -> int:
  if total % part:
    raise CheckpointError(path, f'positions hold {total} tokens, which {part} does not divide')
  return total // part


def _square_roots(total: int) -> list[int]:
  """Returns s for every s x s frame that divides `total` tokens."""
  return [s for s in range(1, math.isqrt(total) + 1) if total % s**2 == 0]
