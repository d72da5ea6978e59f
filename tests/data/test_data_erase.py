# SPDX-License-Identifier: Apache-2.0
"""Random erasing: one box in all frames, of timm's sizes, filled with new noise in each."""

import numpy as np

from vivit_jax.config.augment import RandomErasing
from vivit_jax.data.augmentation.erase import DEVIATION, MEAN, Noise, draw_noise


def test_only_the_box_is_erased_and_in_every_frame(rng):
  video = rng.integers(0, 256, (4, 20, 30, 3), np.uint8)
  before = video.copy()
  result = Noise(3, 5, 10, 12, seed=1)(video)
  assert result.dtype == np.uint8
  outside = np.ones((20, 30), bool)
  outside[3:13, 5:17] = False
  np.testing.assert_array_equal(result[:, outside], video[:, outside])
  for frame in range(4):
    assert (result[frame, ~outside] != video[frame, ~outside]).mean() > 0.9
    assert (result[frame, ~outside] != result[frame - 1, ~outside]).mean() > 0.9
  np.testing.assert_array_equal(result, Noise(3, 5, 10, 12, seed=1)(video))
  assert not np.array_equal(result, Noise(3, 5, 10, 12, seed=2)(video))
  np.testing.assert_array_equal(video, before)


def test_noise_is_normal_around_imagenets_color():
  noise = Noise(0, 0, 64, 64, seed=0)(np.zeros((8, 64, 64, 3), np.uint8)).reshape(-1, 3)
  slow = np.random.default_rng(1).normal(MEAN, DEVIATION, (200_000, 3))
  slow = np.clip(np.rint(slow), 0, 255)
  np.testing.assert_allclose(noise.mean(axis=0), slow.mean(axis=0), atol=1.5)
  np.testing.assert_allclose(noise.std(axis=0), slow.std(axis=0), rtol=0.02)
  shares = (5, 25, 50, 75, 95)
  np.testing.assert_allclose(
    np.percentile(noise, shares, axis=0), np.percentile(slow, shares, axis=0), atol=3
  )


def test_boxes_have_timms_areas_and_ratios_and_reach_all_borders(rng):
  drawn = [draw_noise(RandomErasing(probability=0.25), 40, 60, rng) for _ in range(4000)]
  boxes = [box for box in drawn if box is not None]
  assert 0.22 < len(boxes) / 4000 < 0.28
  areas = [box.height * box.width / 2400 for box in boxes]
  assert 0.015 < min(areas) < 0.03
  assert 0.3 < max(areas) < 0.35
  ratios = [box.height / box.width for box in boxes if min(box.height, box.width) >= 10]
  assert min(ratios) < 0.4
  assert max(ratios) > 2.0
  assert min(box.top for box in boxes) == min(box.left for box in boxes) == 0
  assert max(box.top + box.height for box in boxes) == 40
  assert max(box.left + box.width for box in boxes) == 60
  assert all(draw_noise(RandomErasing(), 40, 60, rng) is None for _ in range(50))
