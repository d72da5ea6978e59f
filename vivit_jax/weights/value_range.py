# SPDX-License-Identifier: Apache-2.0
"""What pixels of 0 and 255 become before a model sees them, and another range folded into it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.source import Source


def value_range(
  path: Path, scale: Any, shift: float, mean: Any, std: Any
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
  """Returns what 0 and 255 become under ((pixel * scale - shift) - mean) / std, per channel.

  Raises:
    CheckpointError: where these are no numbers, one per channel.
  """
  lists = isinstance(mean, list | tuple) and isinstance(std, list | tuple)
  numbers = [scale, *mean, *std] if lists else []
  if len(numbers) != 7 or not all(_is_number(n) for n in numbers) or 0 in std:
    raise CheckpointError(path, f'has no usable value range: {scale!r}, {mean!r}, {std!r}'[:200])
  low = [(-shift - m) / s for m, s in zip(mean, std, strict=True)]
  high = [(255 * scale - shift - m) / s for m, s in zip(mean, std, strict=True)]
  return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and abs(value) < 1e6  # which no NaN is


def to_unit_range(source: Source) -> Source:
  """Returns the same function of pixels, for pixels in [-1, 1] instead of its own value range.

  (v + 1) / 2 * (high - low) + low is linear, and so is the patch projection: the range goes into
  its kernel and bias. Lets a DeiT (mean and deviation of ImageNet) start a video model.

  Raises:
    CheckpointError: where the source does not tell its range.
  """
  low, high = source.preprocessing.low, source.preprocessing.high
  if low is None or high is None:
    raise CheckpointError(source.path, 'does not tell the value range that its weights expect')
  if (low, high) == ((-1.0,) * 3, (1.0,) * 3):
    return source
  slope = (np.array(high) - np.array(low)) / 2
  middle = (np.array(high) + np.array(low)) / 2
  kernel = source.params['tokenizer/kernel'].astype(np.float64)
  bias = source.params['tokenizer/bias'] + np.einsum('thwcd,c->d', kernel, middle)
  kernel *= slope[:, None]
  changed = {'tokenizer/kernel': kernel, 'tokenizer/bias': bias}
  params = source.params | {name: a.astype(np.float32) for name, a in changed.items()}
  preprocessing = dataclasses.replace(
    source.preprocessing, low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0)
  )
  return dataclasses.replace(source, params=params, preprocessing=preprocessing)
