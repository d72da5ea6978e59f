# SPDX-License-Identifier: Apache-2.0
"""Resizes position embeddings to another token grid, each axis separately."""

from typing import Literal

import numpy as np
import scipy.ndimage

Method = Literal['linear', 'scenic']


def resize_positions(
  positions: np.ndarray, source: tuple[int, ...], target: tuple[int, ...], method: Method
) -> np.ndarray:
  """Returns positions [prod(target), D] from [prod(source), D], each axis resized separately.

  A single source frame is repeated over time (paper section 3.4). `linear` interpolates at token
  centers: a new token gets the position at the same place of the image, averaged if the new grid is
  coarser (like jax.image.resize). `scenic` is scipy.ndimage.zoom of order 1, which aligns the
  centers of the corner tokens instead. It shifts other tokens by up to half a patch, and skips
  tokens when shrinking, so it is not the default. From 4x4 to 8x8, the two differ by up to 0.053
  for positions with standard deviation 0.057.

  Args:
    positions: positions in row-major order of the grid, without cls.
    source: source tokens along time, height and width (or fewer axes).
    target: target tokens along the same axes.
    method: 'linear' or 'scenic'.
  """
  grid = positions.reshape(*source, positions.shape[-1]).astype(np.float32)
  if source != target and method == 'scenic':
    factors = [new / old for new, old in zip(target, source, strict=True)]
    grid = scipy.ndimage.zoom(grid, (*factors, 1), order=1)
  elif source != target:
    for axis, size in enumerate(target):
      if grid.shape[axis] != size:
        weights = linear_weights(grid.shape[axis], size)
        grid = np.moveaxis(np.tensordot(weights, grid, axes=(1, axis)), 0, axis)
  return grid.reshape(-1, positions.shape[-1]).astype(np.float32)


def linear_weights(source: int, target: int) -> np.ndarray:
  """Returns the matrix [target, source] of linear interpolation at token centers; rows sum to 1.

  The triangle kernel has the width of the coarser grid, so that shrinking averages.
  """
  scale = source / target
  centers = (np.arange(target) + 0.5) * scale - 0.5
  distance = np.abs(centers[:, None] - np.arange(source)) / max(scale, 1.0)
  weights = np.maximum(0.0, 1.0 - distance)
  return weights / weights.sum(axis=1, keepdims=True)
