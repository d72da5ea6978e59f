# SPDX-License-Identifier: Apache-2.0
"""RandAugment: strengths against a table written by hand, operations against PIL."""

import collections

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vivit_jax.config.augment import RandAugment
from vivit_jax.data.augmentation import rand_augment as do
from vivit_jax.data.augmentation.rand_augment import KINDS, Operation, draw_operations

# What `level_to_arg` of TensorFlow models makes of magnitudes 5, 10, 15 and 20, worked out by hand
# from its formulas; signs are drawn apart.
STRENGTHS = {
  'AutoContrast': (0, 0, 0, 0),
  'Equalize': (0, 0, 0, 0),
  'Invert': (0, 0, 0, 0),
  'Rotate': (15, 30, 45, 60),
  'Posterize': (2, 4, 6, 8),
  'Solarize': (128, 256, 384, 512),
  'Color': (1.0, 1.9, 2.8, 3.7),
  'Contrast': (1.0, 1.9, 2.8, 3.7),
  'Brightness': (1.0, 1.9, 2.8, 3.7),
  'Sharpness': (1.0, 1.9, 2.8, 3.7),
  'ShearX': (0.15, 0.3, 0.45, 0.6),
  'ShearY': (0.15, 0.3, 0.45, 0.6),
  'TranslateX': (50, 100, 150, 200),
  'TranslateY': (50, 100, 150, 200),
  'Cutout': (20, 40, 60, 80),
  'SolarizeAdd': (55, 110, 165, 220),
}
SIGNED = {'Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY'}


@pytest.fixture
def video(rng):
  """Three frames with every value, some channels not reaching 0 or 255."""
  y, x = np.mgrid[:20, :26]
  frames = [np.stack([40 + 6 * x, 20 + 9 * y, 30 + 3 * (x + y)], -1) + 8 * f for f in range(3)]
  return np.clip(frames + rng.normal(0, 12, (3, 20, 26, 3)), 25, 250).astype(np.uint8)


def tall(video):
  """The frames above each other, as a PIL image."""
  return Image.fromarray(video.reshape(-1, *video.shape[2:]))


def per_frame(video, change):
  return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in video])


def test_strengths_are_those_of_tensorflow_models():
  assert list(KINDS) == list(STRENGTHS)
  for i, magnitude in enumerate((5, 10, 15, 20)):
    found = {name: kind.argument(magnitude / 10) for name, kind in KINDS.items()}
    assert found == pytest.approx({name: row[i] for name, row in STRENGTHS.items()})
  assert {name for name, kind in KINDS.items() if kind.signed} == SIGNED


def test_all_operations_and_none_are_drawn_alike_and_signs_too(rng):
  drawn = [draw_operations(RandAugment(layers=2, magnitude=15.0), rng) for _ in range(4000)]
  assert {len(operations) for operations in drawn} == {0, 1, 2}
  flat = [operation for operations in drawn for operation in operations]
  counts = collections.Counter(operation.name for operation in flat)
  assert set(counts) == set(STRENGTHS)
  for name, count in {**counts, None: 8000 - len(flat)}.items():
    assert 380 < count < 570, name
  for name in STRENGTHS:
    values = {round(operation.argument, 6) for operation in flat if operation.name == name}
    expected = STRENGTHS[name][2]
    assert values == ({expected, -expected} if name in SIGNED else {expected})
  scenic = RandAugment(layers=2, operations='scenic')
  names = {operation.name for _ in range(500) for operation in draw_operations(scenic, rng)}
  assert names == set(STRENGTHS) - SIGNED
  assert draw_operations(RandAugment(), rng) == ()


@pytest.mark.parametrize(
  'ours, pil, tolerance',
  [
    (do.auto_contrast, ImageOps.autocontrast, 1),
    (do.equalize, ImageOps.equalize, 0),
    (do.invert, ImageOps.invert, 0),
    (lambda v: do.posterize(v, 4.0), lambda i: ImageOps.posterize(i, 4), 0),
    (lambda v: do.posterize(v, 6.0), lambda i: ImageOps.posterize(i, 6), 0),
    (lambda v: do.solarize(v, 128.0), lambda i: ImageOps.solarize(i, 128), 0),
    (lambda v: do.color(v, 2.8), lambda i: ImageEnhance.Color(i).enhance(2.8), 2),
    (lambda v: do.color(v, 0.1), lambda i: ImageEnhance.Color(i).enhance(0.1), 1),
    (lambda v: do.contrast(v, 2.8), lambda i: ImageEnhance.Contrast(i).enhance(2.8), 2),
    (lambda v: do.contrast(v, 0.3), lambda i: ImageEnhance.Contrast(i).enhance(0.3), 1),
    (lambda v: do.brightness(v, 1.9), lambda i: ImageEnhance.Brightness(i).enhance(1.9), 1),
  ],
)
def test_values_are_those_of_pil_on_all_frames_as_one_image(video, ours, pil, tolerance):
  before = video.copy()
  expected = np.asarray(pil(tall(video))).reshape(video.shape)
  result = ours(video)
  assert result.dtype == np.uint8
  np.testing.assert_allclose(result.astype(int), expected, atol=tolerance)
  assert not np.array_equal(result, video)
  np.testing.assert_array_equal(video, before)


def test_sharpness_is_pils_of_each_frame(video):
  for factor, tolerance in ((0.1, 1), (2.8, 3)):
    expected = per_frame(video, lambda i, f=factor: ImageEnhance.Sharpness(i).enhance(f))
    np.testing.assert_allclose(do.sharpness(video, factor).astype(int), expected, atol=tolerance)
  np.testing.assert_array_equal(do.sharpness(video, 1.0), video)


@pytest.mark.parametrize('degrees', [45.0, -60.0, 90.0])
def test_rotation_is_pils_of_each_frame(video, degrees):
  gray = (128, 128, 128)
  expected = per_frame(
    video, lambda i: i.rotate(-degrees, Image.Resampling.NEAREST, fillcolor=gray)
  )
  same = (do.rotate(video, degrees, 'gray') == expected).all(axis=-1)
  assert same.mean() > 0.98  # the rest are ties between two pixels


@pytest.mark.parametrize(
  'ours, columns, rows',
  [
    (lambda v, f: do.shear(v, 0.45, 0.0, f), lambda x, y: x + 0.45 * y, lambda x, y: y),
    (lambda v, f: do.shear(v, 0.0, -0.6, f), lambda x, y: x, lambda x, y: y - 0.6 * x),
    (lambda v, f: do.translate(v, 9.0, 0.0, f), lambda x, y: x + 9, lambda x, y: y),
    (lambda v, f: do.translate(v, 0.0, -6.0, f), lambda x, y: x, lambda x, y: y - 6),
    (lambda v, f: do.translate(v, 200.0, 0.0, f), lambda x, y: x + 200, lambda x, y: y),
  ],
)
def test_shear_and_translation_show_the_pixel_there_or_the_fill(video, ours, columns, rows):
  # Keras' reflect: d c b a | a b c d | d c b a, as often as it takes.
  column_of, row_of = (np.concatenate([np.arange(n), np.arange(n)[::-1]]) for n in (26, 20))
  gray, mirror = np.full_like(video, 128), np.empty_like(video)
  for y in range(20):
    for x in range(26):
      column, row = int(np.floor(columns(x, y) + 0.5)), int(np.floor(rows(x, y) + 0.5))
      mirror[:, y, x] = video[:, row_of[row % 40], column_of[column % 52]]
      if 0 <= column < 26 and 0 <= row < 20:
        gray[:, y, x] = video[:, row, column]
  np.testing.assert_array_equal(ours(video, 'gray'), gray)
  np.testing.assert_array_equal(ours(video, 'mirror'), mirror)


@pytest.mark.parametrize('name', sorted(SIGNED))
def test_moved_frames_are_mirrored_unless_gray_is_asked_for(rng, name):
  """The paper's recipes leave no pixel of another color; timm's fill does."""
  video = rng.integers(200, 256, (2, 32, 32, 3), np.uint8)
  argument = float(KINDS[name].argument(1.5))
  assert Operation(name, argument, 0.0, 0.0)(video).min() >= 200
  gray = Operation(name, argument, 0.0, 0.0, 'gray')(video)
  assert (gray == 128).all(axis=-1).mean() > 0.1
  for fill in ('mirror', 'gray'):
    drawn = draw_operations(RandAugment(layers=8, fill=fill), rng)
    assert {operation.fill for operation in drawn} == {fill}


def test_operations_act_with_a_probability(rng):
  """timm: four operations, each with probability 0.5, are two a clip; 1 in 16 clips has none."""
  settings = RandAugment(layers=4, magnitude=7.0, probability=0.5)
  counts = [len(draw_operations(settings, rng)) for _ in range(4000)]
  assert np.mean(counts) == pytest.approx(2.0, abs=0.05)
  assert np.mean(np.array(counts) == 0) == pytest.approx(1 / 16, abs=0.015)
  assert draw_operations(RandAugment(layers=4, probability=0.0), rng) == ()


def test_the_papers_magnitudes_run_out(video):
  """At 20 posterize keeps all bits, and from 10 on solarize inverts nothing."""
  for name, magnitude in (('Posterize', 2.0), ('Solarize', 1.0), ('Solarize', 1.5)):
    argument = float(KINDS[name].argument(magnitude))
    np.testing.assert_array_equal(Operation(name, argument, 0.0, 0.0)(video), video)


def test_solarize_add_adds_below_the_middle(video):
  wide = video.astype(int)
  expected = np.where(wide < 128, np.minimum(255, wide + 165), wide)
  np.testing.assert_array_equal(do.solarize_add(video, 165.0), expected)


def test_cutout_is_a_gray_square_cut_off_at_the_borders(video):
  result = Operation('Cutout', 5.0, 0.5, 0.1)(video)
  expected = video.copy()
  expected[:, 5:15, 0:7] = 128
  np.testing.assert_array_equal(result, expected)


def test_one_value_stays_in_statistics():
  video = np.full((2, 4, 4, 3), 7, np.uint8)
  np.testing.assert_array_equal(do.auto_contrast(video), video)
  np.testing.assert_array_equal(do.equalize(video), video)


@pytest.mark.parametrize('name', STRENGTHS)
def test_every_operation_takes_equal_frames_to_equal_frames(video, name):
  still = np.repeat(video[:1], 3, axis=0)
  result = Operation(name, float(KINDS[name].argument(1.5)), 0.5, 0.5)(still)
  assert result.shape == video.shape
  assert result.dtype == np.uint8
  np.testing.assert_array_equal(result, np.repeat(result[:1], 3, axis=0))
