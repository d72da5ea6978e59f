# SPDX-License-Identifier: Apache-2.0
"""The preprocessor_config.json of Hugging Face folders: which value range it feeds a model."""

from pathlib import Path
from typing import Any

from vivit_jax.config import Hints
from vivit_jax.convert.errors import CheckpointError
from vivit_jax.convert.read import read_json
from vivit_jax.convert.source import Preprocessing, Source
from vivit_jax.convert.value_range import value_range


def read_processor(folder: Path, which: str, hints: Hints) -> Preprocessing:
  """Returns the values that 0 and 255 become.

  For ViViT they are [-1, 1] unless the caller wants what the processor feeds; for the image ViT
  what the processor feeds, and unknown without its config.
  """
  beside = folder / 'preprocessor_config.json'
  config = read_json(beside) if beside.is_file() else None
  size = (config or {}).get('size')
  short = size.get('shortest_edge') if isinstance(size, dict) else None
  short = short if type(short) is int else None
  if which == 'vivit' and hints.value_range == 'trained':
    return Preprocessing(short_side=short)
  if config is None:
    if hints.value_range == 'processor':
      raise CheckpointError(beside, "does not exist, so value_range='processor' is not known")
    return Preprocessing(None, None)
  scale, shift = config.get('rescale_factor', 1 / 255), 0.0
  if which == 'vivit':
    scale, shift = config.get('rescale_factor', 1 / 127.5), float(bool(config.get('offset', True)))
  if not config.get('do_rescale', True):
    scale, shift = 1.0, 0.0
  mean, std = config.get('image_mean', [0.5] * 3), config.get('image_std', [0.5] * 3)
  if not config.get('do_normalize', True):
    mean, std = [0.0] * 3, [1.0] * 3
  low, high = value_range(beside, scale, shift, mean, std)
  return Preprocessing(low, high, short_side=short)


def processor_config(source: Source) -> dict[str, Any] | None:
  """Returns the config of a processor that feeds the range the weights expect, if it is known.

  Pixels times factor, minus 1, is the range [-1, 1]; another range is its mean and deviation.
  """
  low, high = source.preprocessing.low, source.preprocessing.high
  if low is None or high is None:
    return None
  spread = [(a - b) / 2 for a, b in zip(high, low, strict=True)]
  plain = (low, high) == ((-1.0,) * 3, (1.0,) * 3)
  return {
    'image_processor_type': 'VivitImageProcessor',
    'do_resize': True,
    'size': {'shortest_edge': source.short_side},
    'do_center_crop': True,
    'crop_size': {'height': source.height, 'width': source.width},
    'do_rescale': True,
    'rescale_factor': 1 / 127.5,
    'offset': True,
    'do_normalize': not plain,
    'image_mean': [-(b / s) - 1 for b, s in zip(low, spread, strict=True)],
    'image_std': [1 / s for s in spread],
  }
