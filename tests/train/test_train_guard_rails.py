# SPDX-License-Identifier: Apache-2.0
"""Warnings about settings before a run, and the check of overfitting one batch."""

import dataclasses

import jax
import numpy as np
import pytest

from support.runs import command, settings, tiny
from vivit_jax.config.augment import Augment
from vivit_jax.config.schema import Config, Data, Init, Train
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.train.sanity import overfit_one_batch, warnings_for


def manifest(*labels, names=('a', 'b', 'c'), multi_label=False):
  videos = tuple(Video(f'{k}.mp4', None, None, found) for k, found in enumerate(labels))
  return Manifest('train', videos, {'label': names}, '0' * 16, multi_label)


def params(count):
  return {'kernel': jax.ShapeDtypeStruct((count,), np.float32)}


WHOLE = manifest((0,), (1,), (2,))


def test_a_sound_run_gets_no_hint():
  assert warnings_for(Config(), WHOLE, params(3000)) == []


def test_a_large_model_from_scratch_on_few_videos():
  (hint,) = warnings_for(Config(), WHOLE, params(3001))
  assert 'start from scratch on 3 videos' in hint
  assert '--config.init.checkpoint=' in hint
  started = Config(init=Init(checkpoint='vit.npz'))
  assert warnings_for(started, WHOLE, params(10**9)) == []


def test_learning_rate_zero():
  (hint,) = warnings_for(Config(train=Train(learning_rate=0.0)), WHOLE, params(1))
  assert 'config.train.learning_rate=0 learns nothing' in hint


def test_patience_that_never_ends_the_run():
  whole = manifest(*[(k % 3,) for k in range(6)])
  few = Config(train=Train(steps=30, evaluate_every=10, patience=2))
  (hint,) = warnings_for(few, whole, params(1))
  assert 'config.train.patience=2 never ends this run early, since it has 2 evaluations' in hint
  often = Config(train=Train(steps=31, evaluate_every=10, patience=2))
  assert warnings_for(often, whole, params(1)) == []


def test_classes_balanced_twice():
  both = Config(data=Data(balance='label'), train=Train(balanced_loss=True))
  (hint,) = warnings_for(both, WHOLE, params(1))
  assert "config.data.balance='label' already shows classes equally often" in hint


@pytest.mark.parametrize('multi_label', [False, True])
def test_classes_without_examples_are_named(multi_label):
  data = manifest((0,), (0,), multi_label=multi_label)
  (hint,) = warnings_for(Config(), data, params(1))
  assert "2 of 3 classes of 'label' have no training video (b, c)" in hint
  many = manifest((0,), names=tuple(map(str, range(10))))
  assert warnings_for(Config(), many, params(1))[0].count(' more)') == 1


LEFT_RIGHT = ('Turning left', 'turning right', 'lifting', 'going left')
TURNS = ('spin clockwise', 'spin anti-clockwise', 'wind clockwise', 'stop_counterclockwise')


@pytest.mark.parametrize(
  'names, flip, classes, remedy',
  [
    (LEFT_RIGHT, 'horizontal', '2 classes', 'swap_labels or off'),
    (LEFT_RIGHT, 'swap_labels', None, None),
    (LEFT_RIGHT, 'off', None, None),
    (TURNS, 'horizontal', '2 classes', 'off'),
    (TURNS, 'swap_labels', '2 classes', 'off'),
    (TURNS, 'off', None, None),
    (('left behind', 'right there'), 'horizontal', None, None),
    ((*LEFT_RIGHT, *TURNS), 'horizontal', '4 classes', 'off'),
  ],
)
def test_flips_of_classes_that_differ_in_direction(names, flip, classes, remedy):
  data = manifest(*((i,) for i in range(len(names))), names=names)
  found = warnings_for(Config(augment=Augment(flip=flip)), data, params(1))
  if classes is None:
    assert found == []
  else:
    assert len(found) == 1
    assert f"{classes} of 'label' differ only in direction (" in found[0]
    assert found[0].endswith(f'): give --config.augment.flip={remedy}')


def test_a_run_prints_its_hints_and_goes_on(tmp_path):
  arguments = settings(train__steps=1, train__learning_rate=0.0)
  done = command('train', *arguments, f'--workdir={tmp_path}')
  assert done.returncode == 0
  found = [line for line in done.stderr.splitlines() if line.startswith('vivit: warning: ')]
  assert len(found) == 1
  assert 'config.train.learning_rate=0' in found[0]


def test_one_batch_is_learnt_by_heart(capsys, one_device):
  config = tiny(train__batch_size=8, train__learning_rate=0.02)
  assert overfit_one_batch(config)
  out = capsys.readouterr().out
  assert 'one batch of 8 clips, 100 steps: loss 2.08 -> ' in out
  assert out.endswith(': the model can learn\n')


def test_a_model_that_cannot_learn_is_told_apart(capsys, one_device):
  config = tiny(train__batch_size=8)
  train = dataclasses.replace(config.train, learning_rate=0.0)
  assert not overfit_one_batch(dataclasses.replace(config, train=train))
  out = capsys.readouterr().out
  assert 'did NOT learn' in out
  assert 'config.train.learning_rate' in out


def test_the_command_needs_no_workdir_for_it():
  done = command('train', *settings(train__learning_rate=0.0), '--overfit-one-batch')
  assert done.returncode == 1
  assert 'did NOT learn' in done.stdout
