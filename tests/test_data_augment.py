# SPDX-License-Identifier: Apache-2.0
"""Crops: the right part of the frame at the right scale, for any shape."""

import dataclasses

import cv2
import numpy as np
import pytest

from vivit_jax.config import Clip, Data
from vivit_jax.data.augment import RandomCrop, SpatialCrops, draw_crop


def ramps(height, width):
  """A frame whose red channel grows to the right and green downwards, both from 0 to 255."""
  y, x = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
  return np.stack(np.broadcast_arrays(x, y, 0), axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(
  'shape, size', [((48, 64), (32, 24)), ((90, 40), (30, 50)), ((7, 9), (32, 32))]
)
def test_evaluation_crops_span_the_longer_side_and_only_it(shape, size):
  crops = SpatialCrops(*size, 3)(ramps(*shape))
  assert crops.shape == (3, *size, 3)
  tall = shape[0] / size[0] > shape[1] / size[1]
  along, across = (1, 0) if tall else (0, 1)
  middles = crops[..., along].astype(float).mean(axis=(1, 2))
  assert middles[0] < middles[1] < middles[2]
  np.testing.assert_allclose(middles[0] + middles[2], 255, atol=3)
  np.testing.assert_allclose(middles[1], 127.5, atol=4)
  assert (np.ptp(crops[..., across], axis=(1, 2)) > 200).all()  # the shorter side is whole
  np.testing.assert_array_equal(SpatialCrops(*size, 1)(ramps(*shape))[0], crops[1])


def test_cropping_first_equals_resizing_first():
  frame = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8), (9, 9), 3
  )
  whole = cv2.resize(frame, (80, 48), interpolation=cv2.INTER_AREA)
  left, middle, right = SpatialCrops(48, 48, 3)(frame)
  for crop, offset in ((left, 0), (middle, 16), (right, 32)):
    np.testing.assert_allclose(crop, whole[:, offset : offset + 48], atol=1)


@pytest.mark.parametrize('shape', [(48, 64), (64, 48), (240, 320), (9, 7)])
def test_random_crops_stay_inside_and_keep_the_aspect(shape, rng):
  clip, data = Clip(height=32, width=40), Data(scale_jitter=(0.9, 1.33))
  for _ in range(50):
    crop = draw_crop(clip, data, rng)
    assert 1.0 <= crop.scale <= 1.33
    result = crop(ramps(*shape)).astype(float)
    assert result.shape == (32, 40, 3)
    if min(shape) > 40:
      shares = [np.ptp(result[..., 0]) / 255 * shape[1], np.ptp(result[..., 1]) / 255 * shape[0]]
      np.testing.assert_allclose(shares[0] / shares[1], 40 / 32, rtol=0.08)


def test_places_reach_both_borders_and_scale_zooms():
  frame = ramps(48, 64)
  corner = RandomCrop(32, 32, 1.5, 0.0, 0.0, flip=False)
  assert corner(frame)[0, 0, :2].max() <= 4
  assert dataclasses.replace(corner, top=0.999, left=0.999)(frame)[-1, -1, :2].min() >= 251
  np.testing.assert_allclose(np.ptp(corner(frame)[..., 1]), 255 / 1.5, atol=8)
  np.testing.assert_array_equal(
    dataclasses.replace(corner, flip=True)(frame), corner(frame)[:, ::-1]
  )


def test_half_of_all_clips_are_mirrored_or_none(rng):
  clip = Clip()
  flips = [draw_crop(clip, Data(flip='paper'), rng).flip for _ in range(400)]
  assert 160 < sum(flips) < 240
  assert not any(draw_crop(clip, Data(flip='off'), rng).flip for _ in range(50))
