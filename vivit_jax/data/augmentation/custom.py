# SPDX-License-Identifier: Apache-2.0
"""Augmentations of a user's own: `config.augment.custom`, the last ones of a training clip."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.importable import describe, import_named
from vivit_jax.errors import DataError

SETTING = 'config.augment.custom'


@dataclasses.dataclass(frozen=True)
class OwnAugmentation:
  """One of them with what it may draw from for one clip."""

  name: str  # `module:name`
  rng: np.random.Generator

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Returns what it makes of a clip; raises DataError unless that is a clip of the same size."""
    function = import_named(self.name, SETTING)
    try:
      result = function(video, self.rng)
    except Exception as error:
      raise DataError(f'{SETTING} {self.name} raised {describe(error)}') from error
    if not isinstance(result, np.ndarray):
      raise DataError(f'{SETTING} {self.name} returned {type(result).__name__}: {_needs(video)}')
    if result.dtype != np.uint8 or result.shape != video.shape:
      held = f'{result.dtype} {list(result.shape)}'
      raise DataError(f'{SETTING} {self.name} returned {held}: {_needs(video)}')
    return result


def _needs(video: np.ndarray) -> str:
  return f'it must return a clip as it gets, uint8 {list(video.shape)}'


def draw_custom(names: Sequence[str], rng: np.random.Generator) -> tuple[OwnAugmentation, ...]:
  """Gives each of a user's augmentations a generator of its own for one clip."""
  return tuple(map(OwnAugmentation, names, rng.spawn(len(names))))
