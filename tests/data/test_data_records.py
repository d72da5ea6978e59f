# SPDX-License-Identifier: Apache-2.0
"""Examples: a function of their number alone; epochs are whole; unreadable videos replaced."""

import dataclasses

import numpy as np
import pytest

from support.examples import reading
from support.videos import config, numbers, write_dataset, write_images
from vivit_jax.config.schema import Clip, Evaluate, Task
from vivit_jax.data.examples import ATTEMPTS, EvaluationVideos, TrainingExamples, read_view
from vivit_jax.data.manifest import read_manifest
from vivit_jax.errors import DataError


@pytest.fixture
def root(tmp_path):
  return write_dataset(tmp_path / 'data', 6)


def train(root, **kwargs):
  settings = config(**kwargs)
  return read_manifest(root, 'train', settings.task), settings


def test_an_epoch_shows_each_video_once_in_an_order_of_its_own(root):
  manifest, settings = train(root)
  examples = reading(TrainingExamples(manifest, settings))
  epochs = [[int(examples(6 * e + i)['id']) for i in range(6)] for e in range(6)]
  assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 3
  other = reading(TrainingExamples(manifest, dataclasses.replace(settings, seed=1)))
  shifted = [[int(other(6 * e + i)['id']) for i in range(6)] for e in range(5)]
  assert shifted != epochs[1:], 'seeds must not be shifted copies of each other'


def test_clips_are_consecutive_frames_with_their_label(root):
  manifest, settings = train(root)
  examples = reading(TrainingExamples(manifest, settings))
  starts = set()
  for i in range(30):
    record = examples(i)
    assert record['video'].shape == (4, 32, 32, 3)
    frames = numbers(record['video'])
    np.testing.assert_array_equal(np.diff(frames), 2)
    starts.add(int(frames[0]))
    np.testing.assert_array_equal(record['label'], [record['id'] % 2])
    np.testing.assert_array_equal(examples(i)['video'], record['video'])
  assert len(starts) > 8


def test_frozen_time_repeats_the_first_frame_of_the_same_clip(root):
  manifest, settings = train(root)
  moving = reading(TrainingExamples(manifest, settings))
  manifest, settings = train(root, freeze_time=True)
  frozen = reading(TrainingExamples(manifest, settings))
  for i in range(5):
    still = frozen(i)['video']
    np.testing.assert_array_equal(still, np.broadcast_to(still[:1], still.shape))
    np.testing.assert_array_equal(still[0], moving(i)['video'][0])
  views = reading(EvaluationVideos(manifest, settings, 3, 1))(0)['video']
  np.testing.assert_array_equal(numbers(views), np.repeat([[0], [8], [17]], 4, axis=1))


def test_unreadable_videos_are_replaced_deterministically(root):
  for k in (1, 4):
    (root / f'{k}.mp4').write_text('ffconcat version 1.0\nfile 0.mp4\n')
  manifest, settings = train(root)
  examples = reading(TrainingExamples(manifest, settings))
  first = [examples(i) for i in range(12)]
  assert not {1, 4} & {int(r['id']) for r in first}
  replaced = [r for r in first if r['failures']]
  assert len(replaced) == 4
  bad = {str(root / '1.mp4'), str(root / '4.mp4')}
  assert {path for r in replaced for path, _ in r['failures']} == bad
  for i in reversed(range(12)):
    np.testing.assert_array_equal(examples(i)['video'], first[i]['video'])


def test_nothing_readable_ends_in_one_line(root):
  for k in range(6):
    (root / f'{k}.mp4').unlink()
  manifest, settings = train(root)
  with pytest.raises(DataError, match=rf'^{ATTEMPTS} videos of train.csv .*\.mp4: .*No such file'):
    reading(TrainingExamples(manifest, settings))(0)


def test_views_are_ordered_by_clip_then_by_crop(tmp_path, rng):
  images = np.zeros((24, 48, 96, 3), np.uint8)
  images += np.linspace(60, 160, 96).astype(np.uint8)[None, None, :, None]
  images += np.arange(24, dtype=np.uint8)[:, None, None, None] * 3
  root = write_dataset(tmp_path / 'data', 1)
  write_images(root / '0.mp4', images)
  manifest, settings = train(root, clip=Clip(frames=4, stride=2, height=24, width=24))
  settings = dataclasses.replace(settings, evaluate=Evaluate(short_side=24))
  record = reading(EvaluationVideos(manifest, settings, 2, 3))(0)
  levels = record['video'].astype(float).mean(axis=(2, 3, 4)).reshape(2, 3, 4)
  np.testing.assert_allclose(np.diff(levels, axis=0), 17 * 3, atol=2)
  np.testing.assert_allclose(np.diff(levels, axis=1), 25, atol=2)
  np.testing.assert_allclose(np.diff(levels, axis=2), 6, atol=2)
  central = read_view(manifest, 0, settings)
  np.testing.assert_allclose(
    central.astype(float).mean(axis=(1, 2, 3)), levels[0, 1] + 8 * 3, atol=2
  )


def test_tags_are_multi_hot_rows(root):
  (root / 'train.csv').write_text('path,label\n0.mp4,b\n1.mp4,a|b\n2.mp4,\n')
  settings = config()
  task = Task(kind='multi_label', classes=(2,))
  manifest = read_manifest(root, 'train', task)
  videos = reading(EvaluationVideos(manifest, dataclasses.replace(settings, task=task), 1, 1))
  labels = np.stack([videos(k)['label'] for k in range(3)])
  assert labels.dtype == np.float32
  np.testing.assert_array_equal(labels, [[0, 1], [1, 1], [0, 0]])
