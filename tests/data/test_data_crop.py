# SPDX-License-Identifier: Apache-2.0
"""Crops: the right part of the frame at the right scale, for any shape."""

import dataclasses

import cv2
import numpy as np
import pytest

from vivit_jax.config.augment import TrainingCrop
from vivit_jax.config.file import load
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.crop import Inception, RandomCrop, Scaled, SpatialCrops, draw_crop


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


CORNER = RandomCrop(32, 32, Scaled(48, 1.0, 1.0), 0.0, 0.0, flip=False)


@pytest.mark.parametrize('shape', [(48, 64), (64, 48), (240, 320), (9, 7)])
@pytest.mark.parametrize('stretch', [False, True])
def test_jittered_boxes_are_those_of_a_slow_reference(shape, stretch, rng):
  """Resizes the whole frame, as Scenic does, and looks where a crop of the clip's size lies."""
  clip, settings = Clip(height=32, width=40), TrainingCrop(stretch=stretch)
  factors = []
  for _ in range(50):
    crop = draw_crop(clip, settings, False, rng)
    factor_h, factor_w = crop.region.factor_h, crop.region.factor_w
    assert min(factor_h, factor_w) >= 0.9
    assert max(factor_h, factor_w) <= 1.33
    assert stretch or factor_h == factor_w
    factors += [factor_h, factor_w]
    whole = np.array(shape) * 37 / min(shape) * (factor_h, factor_w)
    missing = np.maximum(1.0, np.array([32, 40]) / whole)
    whole *= missing if stretch else missing.max()
    box = crop.boxes(*shape)[0]
    expected = np.array([32, 40]) / whole * shape
    np.testing.assert_allclose([box.height, box.width], expected, atol=0.51)
    assert 0 <= box.top <= shape[0] - box.height
    assert 0 <= box.left <= shape[1] - box.width
    assert crop(ramps(*shape)).shape == (32, 40, 3)
  assert min(factors) < 0.95
  assert max(factors) > 1.25


def test_the_short_side_is_scenics_unless_it_is_given(rng):
  assert draw_crop(Clip(), TrainingCrop(), True, rng).region.short_side == 256
  assert draw_crop(Clip(), TrainingCrop(short_side=288), True, rng).region.short_side == 288


def test_moving_digits_are_cropped_as_in_earlier_versions(rng):
  config = load(['--config=configs/moving_digits.py'])
  for _ in range(50):
    seed = int(rng.integers(2**32))
    crop = draw_crop(config.clip, config.augment.crop, False, np.random.default_rng(seed))
    old = np.random.default_rng(seed)
    scale, top, left = old.uniform(1.0, 1.2), *old.random(2)
    box = round(40 / (scale * 40 / 48))
    assert crop.boxes(48, 56) == [(int(top * (49 - box)), int(left * (57 - box)), box, box)]


@pytest.mark.parametrize('shape', [(96, 160), (160, 96), (64, 64)])
def test_inception_boxes_have_the_area_and_ratio_drawn(shape, rng):
  clip, settings = Clip(height=32, width=48), TrainingCrop(kind='inception', area=(0.08, 0.4))
  shares, ratios = [], []
  for _ in range(300):
    crop = draw_crop(clip, settings, False, rng)
    box = crop.boxes(*shape)[0]
    fits = [
      (share, ratio)
      for share, ratio in crop.region.tries
      if (share * shape[0] * shape[1] / (ratio * 1.5)) ** 0.5 <= shape[0] + 0.5
      and (share * shape[0] * shape[1] * ratio * 1.5) ** 0.5 <= shape[1] + 0.5
    ]
    share, ratio = fits[0]
    area = share * shape[0] * shape[1]
    np.testing.assert_allclose(box.height, (area / ratio / 1.5) ** 0.5, atol=0.51)
    np.testing.assert_allclose(box.width, (area * ratio * 1.5) ** 0.5, atol=0.51)
    shares.append(share)
    ratios.append(ratio)
    assert 0 <= box.top <= shape[0] - box.height
    assert 0 <= box.left <= shape[1] - box.width
  assert 0.08 <= min(shares) < 0.13
  assert max(shares) > 0.35
  assert 0.75 <= min(ratios) < 0.8 < 1.25 < max(ratios) <= 4 / 3


def test_if_no_inception_box_fits_the_largest_one_is_taken():
  region = Inception(((1.0, 1.3), (0.9, 1.3)))
  assert region.size((40, 40), (32, 32)) == (40, 40)
  assert region.size((40, 100), (32, 32)) == (40, 40)
  assert Inception(((1.0, 1.3), (0.25, 1.0))).size((40, 40), (32, 32)) == (20, 20)


def test_places_reach_both_borders_and_scale_zooms():
  frame = ramps(48, 64)
  assert CORNER(frame)[0, 0, :2].max() <= 4
  assert dataclasses.replace(CORNER, top=0.999, left=0.999)(frame)[-1, -1, :2].min() >= 251
  np.testing.assert_allclose(np.ptp(CORNER(frame)[..., 1]), 255 / 1.5, atol=8)
  flipped = dataclasses.replace(CORNER, flip=True)(frame)
  np.testing.assert_array_equal(flipped, CORNER(frame)[:, ::-1])


def test_half_of_all_clips_are_mirrored_or_none(rng):
  flips = [draw_crop(Clip(), TrainingCrop(), True, rng).flip for _ in range(400)]
  assert 160 < sum(flips) < 240
  assert not any(draw_crop(Clip(), TrainingCrop(), False, rng).flip for _ in range(50))
