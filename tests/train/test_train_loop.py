# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the command: what a workdir holds, unreadable videos, tasks, initial weights."""

import json
import shutil
from pathlib import Path

import chex
import jax
import pytest
from sklearn.metrics import average_precision_score

from support.runs import CONFIG, saved_state, tiny
from vivit_jax.data.splits import open_split
from vivit_jax.errors import ConfigError, DataError
from vivit_jax.train import loop, run_evaluation
from vivit_jax.train import step as step_module
from vivit_jax.train.log import RunLog, read_metrics
from vivit_jax.train.loop import train
from vivit_jax.weights.pretrained import load_run


@pytest.fixture(scope='module')
def corrupt(tmp_path_factory):
  """The tiny videos as a user's data, with three unreadable ones in train and two in test."""
  root = tmp_path_factory.mktemp('corrupt') / 'data'
  shutil.copytree(Path(open_split(tiny(), 'train').videos[0].path).parents[1], root)
  bad = [root / name for name in ('train/00003.mp4', 'train/00040.mp4', 'train/00041.mp4',
                                  'test/00002.mp4', 'test/00020.mp4')]  # fmt: skip
  bad[0].write_bytes(b'')
  bad[1].unlink()
  bad[2].write_bytes(bad[2].read_bytes()[:300])
  bad[3].write_text('no video')
  bad[4].write_bytes(bytes(2000))
  return root, bad


@pytest.mark.usefixtures('one_device')
def test_unreadable_videos_are_left_out_counted_and_listed(corrupt, tmp_path, capsys):
  root, bad = corrupt
  config = tiny(data__source='manifests', data__root=root)
  results = train(config, tmp_path)  # 24 batches of 8 are three epochs: each file is tried
  listed = (tmp_path / 'skipped.csv').read_text().splitlines()
  assert listed[0] == 'path,reason'
  assert {line.split(',')[0] for line in listed[1:]} == set(map(str, bad))
  assert len(listed) == 1 + len(bad)
  report = json.loads((tmp_path / 'report.json').read_text())
  assert results['videos'] == report['videos'] == 19
  assert results['skipped'] == report['skipped'] == 2
  assert [failure['path'] for failure in report['failures']] == [str(path) for path in bad[3:]]
  assert '2 unreadable, see skipped.csv' in capsys.readouterr().out


@pytest.mark.usefixtures('one_device')
def test_too_many_unreadable_videos_are_an_error_that_names_one(corrupt, tmp_path):
  root, bad = corrupt
  config = tiny(data__source='manifests', data__root=root, data__max_bad_fraction=0.02)
  with pytest.raises(DataError) as error:
    train(config, tmp_path)
  message = str(error.value)
  assert message.startswith('2 of the 64 videos in train.csv cannot be read')
  assert '\n' not in message
  assert 'config.data.max_bad_fraction=0.02' in message
  assert any(str(path) in message for path in bad)


@pytest.mark.usefixtures('one_device')
def test_verb_noun_and_their_action(tmp_path):
  config = tiny(CONFIG + ':factorised_dot_product,verb_noun', train__steps=6)
  results = train(config, tmp_path)
  assert set(results['tasks']) == {'verb', 'noun', 'action'}
  tasks = results['tasks']
  assert (
    results['top1'] == tasks['action']['top1'] <= min(tasks['verb']['top1'], tasks['noun']['top1'])
  )
  assert tasks['action']['classes'] == 80
  rows = read_metrics(tmp_path)
  assert {'top1', 'top1_verb', 'top1_noun', 'loss'} <= set(rows[0])
  assert {'validation_top1', 'validation_top1_verb'} <= set(rows[-1])
  for head in ('verb', 'noun'):
    assert (tmp_path / f'confusion_{head}.png').stat().st_size


@pytest.mark.usefixtures('one_device')
def test_multi_label_precision_is_that_of_scikit_learn(tmp_path, monkeypatch):
  kept = []
  evaluate = run_evaluation.evaluate_split
  monkeypatch.setattr(
    run_evaluation, 'evaluate_split', lambda *a, **k: kept.append(evaluate(*a, **k)) or kept[-1]
  )
  config = tiny(CONFIG + ':spatio_temporal,tags', train__steps=6)
  results = train(config, tmp_path)
  final = kept[-1]
  logits, labels = final.logit_sums / 6, final.labels
  assert labels.shape == (21, 18)
  assert (labels.sum(axis=1) == 2).all()  # one motion and one digit
  present = labels.any(axis=0)
  wanted = average_precision_score(labels[:, present], logits[:, present], average='macro')
  assert results['mAP'] == pytest.approx(wanted, abs=1e-12)
  assert json.loads((tmp_path / 'report.json').read_text())['mAP'] == results['mAP']
  assert 'accuracy' in read_metrics(tmp_path)[0]


@pytest.mark.usefixtures('one_device')
def test_the_step_is_traced_once_and_rows_follow_the_next_start(tmp_path, monkeypatch):
  events, write, compile_step = [], RunLog.train, loop.compile_step

  def recording(*arguments):
    step = compile_step(*arguments)
    return lambda state, batch: events.append('started') or step(state, batch)

  monkeypatch.setattr(loop, 'compile_step', recording)
  chex.clear_trace_counter()
  once = chex.assert_max_traces(step_module.train_step, n=1)
  monkeypatch.setattr(step_module, 'train_step', once)
  monkeypatch.setattr(RunLog, 'train', lambda log, k, row: events.append(k) or write(log, k, row))
  train(tiny(train__steps=8, train__log_every=2, train__checkpoint_every=6), tmp_path)
  # Rows 6 and 8 are those of steps that are waited for anyway: saved and evaluated.
  expected = ['started', 'started', 'started', 2, 'started', 'started', 4, 'started', 6,
              'started', 'started', 8]  # fmt: skip
  assert events == expected
  assert [row['step'] for row in read_metrics(tmp_path)] == [2, 4, 6, 8, 8]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A run whose weights others start from."""
  workdir = tmp_path_factory.mktemp('trained')
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.devices()[:1]
    patch.setattr(jax, 'devices', lambda: devices)
    train(tiny(train__steps=6), workdir)
  return workdir


@pytest.mark.usefixtures('one_device')
def test_weights_of_another_run_start_at_step_0(trained, tmp_path):
  config = tiny(train__steps=1, seed=5, init__checkpoint=trained, train__learning_rate=0.0)
  train(config, tmp_path)
  after = saved_state(config, tmp_path)
  assert int(after.step) == 1
  chex.assert_trees_all_equal(after.params, load_run(trained).params)
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 1]


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'init__checkpoint': 'no/such/run'}, 'no/such/run'),
    ({'model__width': 32}, 'has width 16, the model to initialize 32'),
  ],
)
@pytest.mark.usefixtures('one_device')
def test_weights_that_cannot_be_used_are_refused(trained, tmp_path, overrides, message):
  config = tiny(**{'init__checkpoint': trained, **overrides})
  with pytest.raises(ConfigError, match=message) as error:
    train(config, tmp_path)
  assert str(error.value).startswith(f'config.init.checkpoint={config.init.checkpoint}: ')
  assert '\n' not in str(error.value)
