# SPDX-License-Identifier: Apache-2.0
"""The augmentation: depends only on the example number, equal in all frames, independent parts."""

import dataclasses

import numpy as np
import pytest

from support.examples import reading
from support.videos import config, write_dataset, write_images
from vivit_jax.config.augment import Augment, ColorJitter, RandAugment, RandomErasing, TrainingCrop
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.augment import draw
from vivit_jax.data.examples import TrainingExamples
from vivit_jax.data.manifest import read_manifest

ALL = Augment(
  rand_augment=RandAugment(layers=2, magnitude=15.0),
  color_jitter=ColorJitter(probability=0.8, drop=0.1),
  random_erasing=RandomErasing(probability=0.25),
)
CLIP = Clip(frames=4, stride=2, height=32, width=32)


def seeded(settings, seed):
  return draw(CLIP, settings, np.random.default_rng(seed))


def test_the_defaults_only_crop_and_mirror():
  for seed in range(20):
    drawn = seeded(Augment(), seed)
    assert (drawn.operations, drawn.color, drawn.gray, drawn.noise) == ((), None, False, None)


def test_what_is_drawn_for_a_part_does_not_depend_on_the_others():
  for seed in range(30):
    everything = seeded(ALL, seed)
    alone = seeded(Augment(random_erasing=ALL.random_erasing), seed)
    assert alone.crop == everything.crop == seeded(Augment(), seed).crop
    assert alone.noise == everything.noise
    assert seeded(Augment(color_jitter=ALL.color_jitter), seed).color == everything.color


def test_parts_follow_each_other_on_the_crops(rng):
  video = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
  kinds = set()
  for seed in range(60):
    drawn = seeded(ALL, seed)
    expected = video
    for operation in drawn.operations:
      expected = operation(expected)
    if drawn.color:
      expected = drawn.color(expected)
    if drawn.gray:
      expected = np.repeat(np.rint(expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1)
    result = drawn(video)
    assert result.dtype == np.uint8
    kept = np.ones((32, 32), bool)
    if drawn.noise:
      box = drawn.noise
      kept[box.top : box.top + box.height, box.left : box.left + box.width] = False
      assert not np.array_equal(result[:, ~kept], expected[:, ~kept])
    np.testing.assert_allclose(result[:, kept], expected[:, kept], atol=1)
    kinds.add((bool(drawn.operations), bool(drawn.color), drawn.gray, bool(drawn.noise)))
  assert len(kinds) == 6


def test_equal_frames_stay_equal_but_for_noise(rng):
  frame = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
  settings = dataclasses.replace(ALL, random_erasing=RandomErasing())
  for seed in range(40):
    result = seeded(settings, seed)(np.repeat(frame, 4, axis=0))
    np.testing.assert_array_equal(result, np.repeat(result[:1], 4, axis=0))


def examples(root, augment, **kwargs):
  settings = dataclasses.replace(config(clip=CLIP, **kwargs), augment=augment)
  return reading(TrainingExamples(read_manifest(root, 'train', settings.task), settings))


@pytest.fixture
def root(tmp_path, rng):
  """Six videos with a bright left half, of classes that say so; see `write_dataset`."""
  root = write_dataset(tmp_path / 'data', 6)
  images = rng.integers(0, 40, (12, 48, 64, 3), np.uint8)
  images[:, :, :32] += 180
  for k in range(6):
    write_images(root / f'{k}.mp4', images)
  (root / 'classes' / 'label.txt').write_text('bright left\nbright right\n')
  (root / 'train.csv').write_text(
    'path,label\n' + ''.join(f'{k}.mp4,bright left\n' for k in range(6))
  )
  return root


def test_examples_are_fixed_by_their_number(root):
  first, again = examples(root, ALL), examples(root, ALL)
  clips = [first(i)['video'] for i in range(12)]
  for i in reversed(range(12)):
    np.testing.assert_array_equal(again(i)['video'], clips[i])
  assert len({clip.tobytes() for clip in clips}) == 12


def test_mirrored_clips_take_the_mirrored_label_if_configured(root):
  crop = TrainingCrop(short_side=32, scale=(1.0, 1.0), stretch=False)
  sides = {}
  for flip in ('horizontal', 'off', 'swap_labels'):
    read = examples(root, Augment(crop=crop, flip=flip))
    pairs = []
    for i in range(24):
      record = read(i)
      halves = record['video'].astype(float).mean(axis=(0, 1, 3))
      pairs.append((bool(halves[0] < halves[-1]), int(record['label'][0])))
    sides[flip] = set(pairs)
  assert sides['horizontal'] == {(False, 0), (True, 0)}
  assert sides['off'] == {(False, 0)}
  assert sides['swap_labels'] == {(False, 0), (True, 1)}


def test_classes_without_a_mirror_image_are_not_mirrored(root):
  (root / 'classes' / 'label.txt').write_text('bright left\ndark\n')
  read = examples(root, Augment(flip='swap_labels'))
  assert {int(read(i)['label'][0]) for i in range(12)} == {0}
  videos = [read(i)['video'].astype(float).mean(axis=(0, 1, 3)) for i in range(12)]
  assert all(columns[0] >= columns[-1] - 20 for columns in videos)


def test_repeats_are_neighbours_and_an_epoch_counts_clips(root):
  once, twice = examples(root, Augment()), examples(root, Augment(repeated_augmentation=2))
  ids = [int(twice(i)['id']) for i in range(12)]
  assert ids[::2] == ids[1::2] == [int(once(i)['id']) for i in range(6)]
  assert sorted(ids[::2]) == list(range(6))
  for i in range(0, 12, 2):
    assert not np.array_equal(twice(i)['video'], twice(i + 1)['video'])
