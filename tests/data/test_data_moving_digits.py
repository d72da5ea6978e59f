# SPDX-License-Identifier: Apache-2.0
"""Moving digits: verbs are only visible in motion, splits share no image, folders are atomic."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from vivit_jax.config.schema import MovingDigits, Task
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.moving_digits import (
  NOUNS,
  SHARES,
  VERBS,
  DigitVideo,
  digit_videos,
  draw,
  ensure,
)
from vivit_jax.data.video.reader import VideoReader

SMALL = MovingDigits(train_videos=80, validation_videos=16, test_videos=24)
CHANCE = 1 / len(VERBS)


def moments(frames):
  """Returns x, y, angle's cosine and sine, and size [F, 5] as the colors of a frame show them."""
  frames = frames.astype(np.float32)
  ink = np.ptp(frames, axis=-1).clip(25) - 25 + (frames.min(axis=-1).clip(110) - 110)
  y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]

  def centre(weight):
    total = weight.sum(axis=(1, 2)) + 1e-6
    return (
      np.stack([(weight * x).sum(axis=(1, 2)), (weight * y).sum(axis=(1, 2))], -1) / total[:, None]
    )

  red = (frames[..., 0] - frames[..., 2]).clip(30) - 30
  blue = (frames[..., 2] - frames[..., 0]).clip(30) - 30
  up = centre(red) - centre(blue)
  up /= np.linalg.norm(up, axis=-1, keepdims=True) + 1e-6
  return np.concatenate([centre(ink), up, np.sqrt((ink > 10).sum(axis=(1, 2)))[:, None]], -1)


@pytest.fixture(scope='module')
def drawn():
  """Frames 0 to 3 and the verb of 960 training and 480 other videos."""
  config = MovingDigits(train_videos=960, validation_videos=480)
  return {
    split: (
      np.stack([draw(s)[:4] for s in digit_videos(config, split)]),
      np.array([list(VERBS).index(s.verb) for s in digit_videos(config, split)]),
    )
    for split in ('train', 'validation')
  }


def test_one_frame_says_nothing_about_the_verb_and_four_do(drawn):
  def score(model, features):
    (x, y), (x_test, y_test) = (drawn[split] for split in ('train', 'validation'))
    model.fit(np.stack([features(v) for v in x]), y)
    return model.score(np.stack([features(v) for v in x_test]), y_test)

  def pixels(video):
    return video[0, ::3, ::3].reshape(-1) / 255

  def still(video):
    return moments(video[:1])[0]

  def moving(video):
    return np.diff(moments(video), axis=0).reshape(-1)

  forest = RandomForestClassifier(100, random_state=0)
  assert abs(score(LogisticRegression(C=0.01, max_iter=300), pixels) - CHANCE) < 0.05
  assert abs(score(forest, still) - CHANCE) < 0.05
  assert score(forest, moving) > 0.8


def test_verbs_do_what_their_names_say():
  for verb in VERBS:
    steps = []
    for k in range(12):
      seen = moments(draw(DigitVideo(verb, '3', 3, (0, 0, k))))
      turn = seen[:-1, 2] * seen[1:, 3] - seen[:-1, 3] * seen[1:, 2]  # y points down: clockwise > 0
      steps.append(np.concatenate([np.diff(seen[:, [0, 1, 4]], axis=0), turn[:, None]], -1))
    x, y, size, turn = np.median(np.concatenate(steps), axis=0)
    change = {'left': -x, 'right': x, 'up': -y, 'down': y, 'growing': size, 'shrinking': -size}
    change |= {'clockwise': 4 * turn, 'anticlockwise': -4 * turn}
    assert max(change, key=change.__getitem__) == verb, change


def test_splits_are_balanced_and_share_no_source_image():
  config = MovingDigits()
  images = {}
  for split in SHARES:
    rows = digit_videos(config, split)
    verbs, pairs = Counter(s.verb for s in rows), Counter((s.verb, s.noun) for s in rows)
    assert len(pairs) == len(VERBS) * len(NOUNS)
    assert len(set(verbs.values())) == len(set(pairs.values())) == 1
    images[split] = {s.image for s in rows}
    assert len({s.seed for s in rows}) == len(rows)
  assert not images['train'] & images['validation']
  assert not (images['train'] | images['validation']) & images['test']


def test_the_seed_fixes_every_pixel():
  sample = digit_videos(SMALL, 'train')[5]
  np.testing.assert_array_equal(draw(sample), draw(digit_videos(SMALL, 'train')[5]))
  other = digit_videos(MovingDigits(seed=1), 'train')[5]
  assert (draw(sample) != draw(other)).any()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def assert_whole(folder: Path, config: MovingDigits):
  """Every row's file is there, and the folder's parent holds nothing unfinished."""
  for split in SHARES:
    task = Task(heads=('verb', 'noun'), classes=(len(VERBS), len(NOUNS)))
    manifest = read_manifest(folder, split, task)
    assert len(manifest.videos) == getattr(config, f'{split}_videos')
    for video in manifest.videos:
      with VideoReader(video.path) as reader:
        assert reader.frames == 24
  assert {p.name for p in folder.parent.iterdir()} == {folder.name, f'{folder.name}.lock'}


def test_files_hold_what_was_drawn_and_serve_every_task(cache):
  folder = ensure(SMALL)
  assert_whole(folder, SMALL)
  verbs = read_manifest(folder, 'test', Task(heads=('verb',), classes=(8,)))
  tags = read_manifest(folder, 'test', Task(kind='multi_label', heads=('tags',), classes=(18,)))
  rows = zip(verbs.videos, tags.videos, digit_videos(SMALL, 'test'), strict=True)
  for video, tagged, sample in rows:
    assert verbs.class_names['verb'][video.labels[0]] == sample.verb
    assert {tags.class_names['tags'][i] for i in tagged.labels} == {sample.verb, sample.noun}
  with VideoReader(verbs.videos[0].path) as reader:
    decoded = reader.read(np.arange(reader.frames))
  difference = np.abs(decoded.astype(float) - draw(digit_videos(SMALL, 'test')[0]))
  assert difference.mean() < 8
  before = (folder / 'train.csv').stat().st_mtime_ns
  assert ensure(SMALL) == folder
  assert (folder / 'train.csv').stat().st_mtime_ns == before
  assert ensure(MovingDigits(8, 8, 8, seed=3)) != folder


def generator(config: MovingDigits) -> subprocess.Popen:
  code = (
    f'from vivit_jax.config.schema import MovingDigits; from vivit_jax.data import moving_digits; '
    f'moving_digits.ensure({config!r})'
  )
  return subprocess.Popen(
    [sys.executable, '-c', code], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
  )


def wait_for(condition, seconds=60):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_killed_generation_is_never_taken_for_a_finished_one(cache):
  config = MovingDigits(400, 16, 16)
  with generator(config) as process:
    wait_for(lambda: len(list(cache.glob('*/train/*.mp4'))) > 20)
    process.send_signal(signal.SIGKILL)
  (leftover,) = [p for p in cache.iterdir() if p.is_dir()]
  assert 20 < len(list(leftover.rglob('*.mp4'))) < 432
  folder = ensure(config)
  assert folder != leftover
  assert_whole(folder, config)


def test_two_processes_at_once_share_one_generation(cache):
  processes = [generator(SMALL) for _ in range(2)]
  assert [process.wait(60) for process in processes] == [0, 0]
  assert_whole(ensure(SMALL), SMALL)
