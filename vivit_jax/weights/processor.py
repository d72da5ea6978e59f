# SPDX-License-Identifier: Apache-2.0
"""Reads, checks and writes Hugging Face's processor settings.

The defaults of their processor classes are wrong for the published weights of ViViT, VideoMAE and
TimeSformer, and some published files have these defaults. `families` has the settings with which
the weights were trained. If a file has the class default, the family's settings are used instead
and a note is printed.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config.augment import Triple
from vivit_jax.config.clip import HALF, Preprocessing, in_words
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError
from vivit_jax.weights.families import FAMILIES, Family
from vivit_jax.weights.normalization import fed
from vivit_jax.weights.readers import read_json
from vivit_jax.weights.source import Source

PREPROCESSOR = 'preprocessor_config.json'
# File names used by transformers, newest first; `processor_config.json` has several processors.
FILES = ('processor_config.json', 'video_preprocessor_config.json', PREPROCESSOR)
# Processor class per family, for writing.
CLASSES = {
  'vivit': {'image_processor_type': 'VivitImageProcessor'},
  'videomae': {
    'image_processor_type': 'VideoMAEImageProcessor',
    'video_processor_type': 'VideoMAEVideoProcessor',
  },
  'timesformer': {
    'image_processor_type': 'VideoMAEImageProcessor',
    'video_processor_type': 'TimesformerVideoProcessor',
  },
  'vjepa2': {'video_processor_type': 'VJEPA2VideoProcessor'},
  'videoprism': {'video_processor_type': 'LlavaOnevisionVideoProcessor'},
}
BICUBIC, BILINEAR = 3, 2  # as PIL numbers them

Notes = tuple[str, ...]


def read_processor(
  folder: Path, name: str, crop: tuple[int, int] | None, hints: CheckpointFacts
) -> tuple[Preprocessing, Notes]:
  """Returns the preprocessing of the weights in a folder, and notes for the user.

  Args:
    folder: folder of the checkpoint; processor files may be missing.
    name: name of the family.
    crop: height and width of the model's input in pixels; None = not known yet.
    hints: `value_range='processor'` uses the value range of the file in any case.

  Raises:
    CheckpointError: a file has invalid numbers, or is required but missing.
  """
  family = FAMILIES[name]
  wants = family.preprocessing(*crop) if crop else family.wants
  path, config = _find(folder)
  if config is None:
    if hints.value_range == 'processor':
      raise CheckpointError(path, "does not exist, so value_range='processor' is not known")
    # Published image ViTs have one of two value ranges.
    unknown = dataclasses.replace(wants, mean=None, std=None)
    return (unknown if name == 'image_vit' else wants), ()
  notes = []
  mean, std = _fed(path, name, family, config)
  if hints.value_range == 'trained':
    mean, std, note = _trained(path, name, family, mean, std)
    notes += [note] if note else []
  short_side = _short_side(config)
  held = _crop(config)
  if crop and held and held != crop and name != 'image_vit':
    notes.append(
      f'{path.name} crops to {held[0]}x{held[1]}, but the model needs {crop[0]}x{crop[1]}: using '
      'the latter'
    )
    short_side = None
  if short_side is not None and wants.resize == 'short_side':
    wants = dataclasses.replace(wants, short_side=short_side)
  return dataclasses.replace(wants, mean=mean, std=std), tuple(notes)


def _find(folder: Path) -> tuple[Path, Mapping[str, Any] | None]:
  """Returns the processor file and its settings, or None for the settings if there is none."""
  for name in FILES:
    path = folder / name
    if not path.is_file():
      continue
    config: Any = read_json(path)
    if name == FILES[0]:
      config = config.get('video_processor', config.get('image_processor'))
    if isinstance(config, dict):
      return path, config
  return folder / PREPROCESSOR, None


def _fed(path: Path, name: str, family: Family, config: Mapping[str, Any]) -> tuple[Triple, Triple]:
  """Returns the mean and std of a processor, for pixels in [0, 1]."""
  scale, shift = config.get('rescale_factor', 1 / 255), 0.0
  if name == 'vivit':
    scale, shift = config.get('rescale_factor', 1 / 127.5), float(bool(config.get('offset', True)))
  if not config.get('do_rescale', True):
    scale, shift = 1.0, 0.0
  usual_mean, usual_std = HALF, HALF
  if name != 'vivit':
    usual_mean, usual_std = family.class_default or family.normalization
  mean, std = config.get('image_mean', usual_mean), config.get('image_std', usual_std)
  if not config.get('do_normalize', True):
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
  return fed(path, scale, shift, mean, std)


def _trained(
  path: Path, name: str, family: Family, mean: Triple, std: Triple
) -> tuple[Triple, Triple, str | None]:
  """Returns the mean and std to use, given those of a file, and a note if they differ."""
  own = family.normalization
  if name == 'image_vit':
    return mean, std, None
  if _close((mean, std), own):
    return own[0], own[1], None
  said = f'{path.name} has {in_words(mean, std)}, '
  if family.class_default and _close((mean, std), family.class_default):
    note = (
      f"{said}Hugging Face's default, but the published weights of {family.title} were trained "
      f"with {in_words(*own)}: using the latter (value_range='processor' uses the former)"
    )
    return own[0], own[1], note
  note = f'{said}not {in_words(*own)} as the published weights of {family.title}: using the file'
  return mean, std, note


def _close(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
  pairs = zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True)
  return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs)


def _short_side(config: Mapping[str, Any]) -> int | None:
  size = config.get('size')
  if isinstance(size, dict):
    size = size.get('shortest_edge')
  return size if type(size) is int else None


def _crop(config: Mapping[str, Any]) -> tuple[int, int] | None:
  """Returns height and width of the crop in the settings, or None."""
  if not config.get('do_center_crop', True):
    return None
  size: Any = config.get('crop_size')
  sides: Any = (size, size)
  if isinstance(size, dict):
    sides = size.get('height'), size.get('width')
  return sides if all(type(side) is int for side in sides) else None


def processor_config(source: Source, name: str = 'vivit') -> dict[str, Any] | None:
  """Returns the config of a processor with the weights' preprocessing, or None if unknown.

  Args:
    source: the weights.
    name: name of their family.
  """
  wants = source.preprocessing
  if wants.mean is None or wants.std is None:
    return None
  whole = wants.resize == 'whole_frame'
  size = {'height': source.height, 'width': source.width}
  mean, std = list(wants.mean), list(wants.std)
  rescale: dict[str, Any] = {'rescale_factor': 1 / 255}
  if name == 'vivit':  # its processor first maps pixels to [-1, 1]
    rescale = {'rescale_factor': 1 / 127.5, 'offset': True}
    mean, std = [2 * m - 1 for m in mean], [2 * s for s in std]
  plain = mean == [0.0] * 3 and std == [1.0] * 3
  return {
    **CLASSES[name],
    'do_resize': True,
    'size': size if whole else {'shortest_edge': source.short_side},
    'resample': BICUBIC if whole else BILINEAR,
    'do_center_crop': not whole,
    'crop_size': size,
    'do_rescale': True,
    **rescale,
    'do_normalize': not plain,
    'image_mean': mean,
    'image_std': std,
  }
