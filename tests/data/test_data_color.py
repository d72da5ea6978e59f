# SPDX-License-Identifier: Apache-2.0
"""Color jitter and drop against one pixel after the other, in the order and cuts of DMVR."""

import colorsys

import numpy as np
import pytest

from vivit_jax.config.augment import ColorJitter
from vivit_jax.data.augmentation.color import ColorChange, draw_color, drop_color


@pytest.fixture
def video(rng):
  """Three small frames of all colors, of different brightness, black and white among them."""
  frames = rng.integers(0, 256, (3, 12, 14, 3)) * np.array([1.0, 0.6, 0.2])[:, None, None, None]
  frames[:, 0, 0], frames[:, 0, 1], frames[:, 0, 2] = 0, 255, (255, 0, 0)
  return frames.astype(np.uint8)


def slow(video, change):
  """DMVR's operations on floats, pixel by pixel; hue by colorsys, on colors moved into 0..1."""
  result = np.zeros(video.shape)
  for f, frame in enumerate(video):
    pixels = frame.reshape(-1, 3) / 255 + change.brightness
    saturated = []
    for pixel in pixels:
      value, least = max(pixel), min(pixel)
      if value <= 0:
        saturated.append([value] * 3)
        continue
      share = (value - least) / value
      factor = min(1.0, share * change.saturation) / share if share else 1.0
      saturated.append([value - (value - c) * factor for c in pixel])
    mean = np.mean(saturated, axis=0)
    for i, pixel in enumerate(mean + change.contrast * (np.array(saturated) - mean)):
      low, size = min(pixel), max(max(pixel) - min(pixel), 1e-9)
      h, s, v = colorsys.rgb_to_hsv(*((pixel - low) / size))
      turned = np.array(colorsys.hsv_to_rgb((h + change.hue) % 1.0, s, v)) * size + low
      result[f].reshape(-1, 3)[i] = turned
  return np.clip(result * 255, 0, 255)


@pytest.mark.parametrize('brightness', [-0.1, 0.0, 0.12])
@pytest.mark.parametrize('saturation, contrast', [(0.6, 1.4), (1.0, 0.6), (1.4, 1.0), (1.3, 1.3)])
@pytest.mark.parametrize('hue', [-0.2, 0.0, 0.13])
def test_jitter_is_that_of_a_slow_reference(video, brightness, saturation, contrast, hue):
  change = ColorChange(brightness, saturation, contrast, hue)
  result, expected = change(video), slow(video, change)
  assert result.dtype == np.uint8
  assert result.shape == video.shape
  blacker = (video.max(axis=-1) / 255 + brightness) <= 0
  np.testing.assert_allclose(result[~blacker], expected[~blacker], atol=0.51 + 0.5)
  np.testing.assert_allclose(result[blacker], expected[blacker], atol=255 * 0.1 * contrast)


def test_no_change_changes_nothing(video):
  np.testing.assert_array_equal(ColorChange(0.0, 1.0, 1.0, 0.0)(video), video)


def test_contrast_is_around_each_frames_own_mean(video):
  result = ColorChange(0.0, 1.0, 0.6, 0.0)(video)
  np.testing.assert_allclose(result.mean(axis=(1, 2)), video.mean(axis=(1, 2)), atol=0.3)


def test_gray_is_the_weighted_sum_of_the_channels(video):
  result = drop_color(video)
  expected = video @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(result, np.repeat(expected[..., None], 3, axis=-1), atol=0.6)
  assert result.dtype == np.uint8


def test_draws_have_the_papers_probabilities_and_strengths(rng):
  drawn = [draw_color(ColorJitter(probability=0.8, drop=0.1), rng) for _ in range(2000)]
  assert 0.77 < np.mean([change is not None for change, _ in drawn]) < 0.83
  assert 0.08 < np.mean([gray for _, gray in drawn]) < 0.12
  changes = [change for change, _ in drawn if change is not None]
  for name, low, high in (
    ('brightness', -32 / 255, 32 / 255),
    ('saturation', 0.6, 1.4),
    ('contrast', 0.6, 1.4),
    ('hue', -0.2, 0.2),
  ):
    values = [getattr(change, name) for change in changes]
    assert low <= min(values) < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < max(values) <= high
  assert all(draw_color(ColorJitter(), rng) == (None, False) for _ in range(50))
