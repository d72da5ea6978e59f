# SPDX-License-Identifier: Apache-2.0
"""User-defined augmentations (`config.augment.custom`), applied last to a training clip."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vivit_jax.config.importable import describe, import_named
from vivit_jax.errors import DataError

SETTING = 'config.augment.custom'


@dataclasses.dataclass(frozen=True)
class OwnAugmentation:
  """A user's augmentation with its random generator for one clip."""

  name: str  # `module:name`
  rng: np.random.Generator

  def __call__(self, video: UInt8[np.ndarray, 'f h w 3']) -> UInt8[np.ndarray, 'f h w 3']:
    """Applies the function to a clip; raises DataError unless the result has the same shape."""
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
  return f'it must return a clip like its input, uint8 {list(video.shape)}'


def draw_custom(names: Sequence[str], rng: np.random.Generator) -> tuple[OwnAugmentation, ...]:
  """Returns the user's augmentations, each with its own random generator for one clip."""
  return tuple(map(OwnAugmentation, names, rng.spawn(len(names))))
