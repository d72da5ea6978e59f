# SPDX-License-Identifier: Apache-2.0
"""Class weights from names and counts, and early stopping that a resumed run repeats."""

import dataclasses
import json
import math
import shutil

import chex
import numpy as np
import pytest

from support.runs import CONFIG, rows, saved_state, tiny
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.config.parse import parse
from vivit_jax.config.schema import Config, Task, Train
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.data.splits import open_split
from vivit_jax.errors import ConfigError, DataError
from vivit_jax.train.class_weights import class_weights
from vivit_jax.train.loop import train
from vivit_jax.train.patience import Patience

HEADS = {'verb': ('run', 'sit', 'open'), 'noun': ('dog', 'open')}
TASK = Task(heads=('verb', 'noun'), classes=(3, 2))


def manifest(*labels, class_names=None, multi_label=False):
  videos = tuple(Video(f'{k}.mp4', None, None, own) for k, own in enumerate(labels))
  return Manifest('train', videos, class_names or HEADS, '0' * 16, multi_label)


DATA = manifest((0, 0), (0, 1), (0, 0), (2, 0))


def weights(task=TASK, data=DATA, **settings):
  return class_weights(Config(task=task, train=Train(**settings)), data)


def test_without_settings_there_are_no_weights():
  assert weights() is None


def test_weights_by_name():
  given = (('sit', 3.0), ('noun:open', 0.5), ('dog', 0.0))
  np.testing.assert_array_equal(weights(class_weights=given), [1, 3, 1, 0, 0.5])


def test_balanced_weights_have_mean_one_over_the_videos():
  found = weights(balanced_loss=True)
  # run 3 of 4 videos, sit none, open 1; dog 3, open 1.
  np.testing.assert_allclose(found, [2 / 3, 1, 2, 2 / 3, 2], rtol=1e-6)
  for column, part in ((0, found[:3]), (1, found[3:])):
    assert np.mean([part[v.labels[column]] for v in DATA.videos]) == pytest.approx(1)


def test_balanced_weights_of_tags_count_labels():
  task = Task(kind='multi_label', heads=('tag',), classes=(3,))
  data = manifest((0, 1), (0,), (), (0,), class_names={'tag': ('x', 'y', 'z')}, multi_label=True)
  np.testing.assert_allclose(weights(task, data, balanced_loss=True), [4 / 6, 2, 1], rtol=1e-6)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ((('dgo', 2.0),), "names 'dgo', which is not a class; did you mean 'dog'?"),
    ((('open', 2.0),), "names 'open': write 'verb:open' or 'noun:open'"),
    ((('dog', 2.0), ('noun:dog', 1.0)), "names 'noun:dog' twice"),
  ],
)
def test_names_that_cannot_be_used(given, message):
  with pytest.raises(ConfigError, match=message):
    weights(class_weights=given)


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'train': {'class_weights': [['dog', -1.0]]}}, r'class_weights\[0\]\[1\]=-1.0 is out of'),
    ({'train': {'class_weights': [['dog']]}}, r"\[0\]=\['dog'\] has 1 values, need 2"),
    ({'train': {'class_weights': [2.0, 1.0]}}, r'class_weights\[0\]=2.0 has the wrong type'),
    ({'train': {'class_weights': [['a', 1]], 'balanced_loss': True}}, 'use one of them'),
    ({'data': {'balance': 'lable'}}, "'lable' is not a head of this task; did you mean 'label'?"),
    ({'train': {'patience': 0}}, 'config.train.patience=0 is out of range'),
  ],
)
def test_settings_that_cannot_be_used(tree, message):
  with pytest.raises(ConfigError, match=message):
    parse(tree)


def test_patience_counts_evaluations_that_are_not_better():
  patience = Patience(2, 'top1')
  counts = []
  # Better, equal with a lower loss, equal, worse, not a number, better.
  for top1, loss in ((0.5, 1.0), (0.5, 0.9), (0.5, 0.9), (0.4, 0.1), (math.nan, 0.1), (0.6, 9.0)):
    patience.add({'top1': top1, 'loss': loss})
    counts.append((patience.waited, patience.is_over))
  assert counts == [(0, False), (0, False), (1, False), (2, True), (3, True), (0, False)]
  never = Patience(None, 'top1', [{'top1': 0.5, 'loss': 1.0}] * 9)
  assert never.waited == 8
  assert not never.is_over


@pytest.mark.usefixtures('one_device', 'compiled_once')
def test_a_run_ends_early_and_so_does_one_that_was_killed_before(tmp_path, capsys):
  # Nothing is learnt, so the first of the evaluations stays the best.
  still = {'train__learning_rate': 0.0, 'train__evaluate_every': 3, 'train__checkpoint_every': 2}
  still |= {'evaluate__temporal_views': 1, 'evaluate__spatial_views': 1}
  config = tiny(**still, train__patience=2)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  results = train(config, whole)
  assert [row['step'] for row in rows(whole) if 'validation_top1' in row] == [3, 6, 9]
  assert 'no better validation in 2 evaluations' in capsys.readouterr().out
  assert results['stopped_early_at'] == 9
  report = json.loads((whole / 'report.json').read_text())
  assert report['stopped_early_at'] == 9
  assert report['step'] == 9, 'of equally good ones the last is kept'
  assert 'step after which training stopped early' in (whole / 'report.html').read_text()

  shutil.copytree(whole, killed)
  shutil.rmtree(killed / 'checkpoints' / '9')  # goes on from step 8
  train(config, killed)
  assert rows(killed) == rows(whole)
  chex.assert_trees_all_equal(saved_state(config, killed), saved_state(config, whole))

  more = dataclasses.replace(config, train=dataclasses.replace(config.train, patience=3))
  assert train(more, whole)['stopped_early_at'] == 12
  with Checkpoints(whole, read_only=True) as checkpoints:
    assert checkpoints.steps[-1] == 12


@pytest.mark.usefixtures('one_device', 'compiled_once')
def test_weights_and_balance_change_a_run_and_nothing_else(tmp_path):
  config = tiny(
    CONFIG + ':factorised_encoder,tags',
    train__steps=4,
    train__balanced_loss=True,
    data__balance='tags',
  )
  results = train(config, tmp_path)
  assert 'stopped_early_at' not in results
  assert all(np.isfinite(row['loss']) for row in rows(tmp_path) if 'loss' in row)
  changed = dataclasses.replace(config, data=dataclasses.replace(config.data, balance=None))
  with pytest.raises(ConfigError, match=r"config.data.balance was 'tags' and is None"):
    train(changed, tmp_path)


def test_patience_without_validation_videos_is_one_line(tmp_path):
  root = tmp_path / 'data'
  source = open_split(tiny(), 'train').videos[0].path
  (root / 'classes').mkdir(parents=True)
  shutil.copyfile(source, root / 'a.mp4')
  (root / 'classes/verb.txt').write_text('\n'.join('abcdefgh') + '\n')
  (root / 'train.csv').write_text('path,verb\na.mp4,a\n')
  config = tiny(data__source='manifests', data__root=root, train__patience=1, train__steps=3)
  with pytest.raises(DataError, match=r'validation.csv does not exist'):
    train(config, tmp_path / 'run')
