# SPDX-License-Identifier: Apache-2.0
"""Mean and std of pixels: reads them from a processor's settings, or folds them into weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vivit_jax.config.augment import Triple
from vivit_jax.errors import CheckpointError
from vivit_jax.weights.source import Source


def fed(path: Path, scale: Any, shift: float, mean: Any, std: Any) -> tuple[Triple, Triple]:
  """Returns mean and std for pixels in [0, 1] equivalent to ((pixel * scale - shift) - mean) / std.

  Raises:
    CheckpointError: an argument is not one number per channel.
  """
  lists = isinstance(mean, list | tuple) and isinstance(std, list | tuple)
  numbers = [scale, *mean, *std] if lists else []
  if len(numbers) != 7 or not all(map(_is_number, numbers)) or 0 in (scale, *std):
    raise CheckpointError(path, f'has an invalid value range: {scale!r}, {mean!r}, {std!r}'[:200])
  unit = 255 * scale  # range before mean and std, for pixels from 0 to 1
  means = [(m + shift) / unit for m in mean]
  stds = [s / unit for s in std]
  return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and abs(value) < 1e6  # False for NaN


def fold(source: Source, mean: Triple, std: Triple) -> Source:
  """Returns equivalent weights for RGB input with this mean and std instead of the source's own.

  Normalization and patch projection are both linear, so the difference is folded into the kernel
  and bias of the projection. This allows e.g. a DeiT (ImageNet's mean and std) to initialize a
  model for [-1, 1].

  Raises:
    CheckpointError: the source does not specify its own mean and std.
  """
  wants = source.preprocessing
  own_mean, own_std = source.normalization(needs_classifier=False)
  if (own_mean, own_std, wants.channels) == (mean, std, 'rgb'):
    return source
  kernel, bias = source.params['tokenizer/kernel'], source.params['tokenizer/bias']
  if (own_mean, own_std) != (mean, std):
    given = mean if wants.channels == 'rgb' else mean[::-1]
    given_std = std if wants.channels == 'rgb' else std[::-1]
    slope = np.array(given_std) / np.array(own_std)
    middle = (np.array(given) - np.array(own_mean)) / np.array(own_std)
    kernel = kernel.astype(np.float64)
    bias = bias + np.einsum('thwcd,c->d', kernel, middle)
    kernel = kernel * slope[:, None]
  if wants.channels == 'bgr':
    kernel = kernel[..., ::-1, :]
  changed = {'tokenizer/kernel': kernel, 'tokenizer/bias': bias}
  params = source.params | {name: a.astype(np.float32) for name, a in changed.items()}
  preprocessing = dataclasses.replace(wants, mean=mean, std=std, channels='rgb')
  return dataclasses.replace(source, params=params, preprocessing=preprocessing)
