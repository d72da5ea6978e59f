# SPDX-License-Identifier: Apache-2.0
"""The test of a run: the same on any devices, of the step, views and split that are asked for."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from pyarrow import parquet

from support.runs import tiny
from vivit_jax import load_pretrained
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.workdir import meaning, write_snapshot
from vivit_jax.cli import main
from vivit_jax.cli.options import parse_views
from vivit_jax.data.failures import Failures
from vivit_jax.data.moving_digits import VERBS
from vivit_jax.data.splits import open_split
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.model.vivit import build
from vivit_jax.train import run_evaluation, validation
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.run_evaluation import evaluate_run, parse_step
from vivit_jax.train.state import init_state
from vivit_jax.train.step import compile_forward
from vivit_jax.weights.pretrained import load_run

BEST, LAST = 4, 8


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run as `train` leaves it, on one device, with weights that tell videos apart."""
  workdir = tmp_path_factory.mktemp('run')
  config = tiny(evaluate__batch_size=5, train__batch_size=4)
  data = open_split(config, 'train')
  write_snapshot(workdir, config, data.fingerprint, data.class_names)
  state = init_state(config, build(config), make_optimizer(config.train, 24))
  rng = np.random.default_rng(0)
  with Checkpoints(workdir, keep=2) as checkpoints:
    for step in (BEST, LAST):
      params = jax.tree.map(
        lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), state.params
      )
      about = {'settings': meaning(config)}
      whole = state.replace(step=jnp.asarray(step, jnp.int32), params=params)
      checkpoints.save(step, whole, about)
      checkpoints.save_best(step, params, 1.0 / step, about=about)
  return workdir


@pytest.fixture
def tested(run, monkeypatch):
  """A function that tests the run on some of the devices and returns results and predictions."""
  everything, evaluate = jax.devices(), run_evaluation.evaluate_split

  def test(devices, **options):
    kept = []
    monkeypatch.setattr(jax, 'devices', lambda: everything[:devices])
    monkeypatch.setattr(
      run_evaluation, 'evaluate_split', lambda *a, **k: kept.append(evaluate(*a, **k)) or kept[-1]
    )
    return evaluate_run(run, **options), kept[0]

  return test


def test_predictions_are_written_with_the_truth(tested, tmp_path):
  results, predictions = tested(1, output=tmp_path, predictions_as='parquet', views=(1, 1))
  rows = parquet.read_table(tmp_path / 'predictions.parquet').to_pylist()
  assert len(rows) == results['videos'] == 21
  assert all(row['views'] == 1 and row['error'] is None for row in rows)
  verbs = tuple(VERBS)
  shares = np.array([[row[f'verb:{name}'] for name in verbs] for row in rows])
  np.testing.assert_allclose(
    shares, scipy.special.softmax(predictions.mean_logits(), axis=1), rtol=1e-9
  )
  assert [row['verb'] for row in rows] == [verbs[k] for k in shares.argmax(axis=1)]
  right = np.mean([row['verb'] == row['true verb'] for row in rows])
  assert right == pytest.approx(results['top1'])


def test_one_device_and_eight_count_the_same(tested):
  one, on_one = tested(1)
  eight, on_eight = tested(8)
  assert one['videos'] == eight['videos'] == 21
  assert one['clips'] == eight['clips'] == 21 * 6
  assert (on_one.views == 6).all()
  np.testing.assert_array_equal(on_one.views, on_eight.views)
  np.testing.assert_array_equal(on_one.labels, on_eight.labels)
  np.testing.assert_array_equal(on_one.clip_hits, on_eight.clip_hits)
  np.testing.assert_allclose(on_eight.mean_logits(), on_one.mean_logits(), rtol=1e-5, atol=1e-5)
  assert on_one.mean_logits().std(axis=0).max() > 0.01  # or nothing was compared
  assert {k: one[k] for k in ('top1', 'top5', 'skipped')} == {
    k: eight[k] for k in ('top1', 'top5', 'skipped')
  }


def test_step_views_and_split_are_those_asked_for(tested, run, capsys):
  results, predictions = tested(1, step='last', split='validation', views=(2, 1))
  folder = run / 'evaluations' / f'validation-{LAST}-2x1'
  report = json.loads((folder / 'report.json').read_text())
  for found in (results, report):
    assert found['step'] == LAST
    assert found['split'] == 'validation'
    assert found['views'] == {'temporal': 2, 'spatial': 1}
    assert found['videos'] == 12
  assert (
    f'12 videos of validation, fingerprint <code>{results["data"]}<'
    in (folder / 'report.html').read_text()
  )
  assert (predictions.views == 2).all()
  line = capsys.readouterr().out
  assert line.startswith(f'validation: top1 {results["top1"]:.4f} of 12 videos, 2x1 views, step 8;')
  assert str(folder / 'report.html') in line
  for step, number in (('best', BEST), (str(LAST), LAST)):
    assert tested(1, step=step, split='validation', views=(1, 1))[0]['step'] == number


def test_only_what_training_evaluates_itself_replaces_its_report(tested, run, tmp_path):
  (run / 'report.json').write_text('of training')
  others = ({'step': 'last'}, {'split': 'validation'}, {'views': (1, 1)})
  for options in others:
    results = tested(1, **options)[0]
    views = 'x'.join(map(str, results['views'].values()))
    name = f'{results["split"]}-{results["step"]}-{views}'
    report = json.loads((run / 'evaluations' / name / 'report.json').read_text())
    assert {key: value for key, value in report.items() if key in results} == results
    assert set(report) - set(results) == {'failures', 'classes'}
  tested(1, output=tmp_path / 'new' / 'same')
  assert (tmp_path / 'new' / 'same' / 'report.html').exists()
  assert (run / 'report.json').read_text() == 'of training'
  results = tested(1)[0]
  assert json.loads((run / 'report.json').read_text())['step'] == results['step'] == BEST


def test_the_loss_of_a_validation_is_that_of_training(run, monkeypatch):
  config = tiny(evaluate__batch_size=5, train__batch_size=4)
  data, kept, evaluate = open_split(config, 'validation'), [], validation.evaluate_split
  monkeypatch.setattr(
    validation, 'evaluate_split', lambda *a, **k: kept.append(evaluate(*a, **k)) or kept[-1]
  )
  forward = compile_forward(build(config), make_mesh(None, jax.devices()[:1]))
  failures = Failures(data, 0.5, run)
  params = load_run(run).params
  found = validation.validate(config, forward, data, params, failures, lambda: None)
  logits, labels = kept[0].mean_logits(), kept[0].labels
  assert len(labels) == 12
  (classes,) = config.task.classes
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels[:, 0]).mean()
  assert found.loss == found.metrics['loss'] == pytest.approx(float(expected), rel=1e-5)
  assert abs(found.loss - np.log(classes)) > 1e-3
  assert list(found.metrics) == ['loss', 'top1', 'top5']
  assert found.score == found.metrics['top1']


def test_a_run_of_which_the_snapshot_was_edited_is_not_evaluated(run, tmp_path):
  shutil.copytree(run, tmp_path / 'run')
  file = tmp_path / 'run' / 'config.json'
  content = json.loads(file.read_text())
  content['config']['clip']['stride'] = 3
  file.write_text(json.dumps(content))
  for step in ('best', 'last'):
    with pytest.raises(CheckpointError, match=r'has config.clip.stride=3, but the weights of st'):
      evaluate_run(tmp_path / 'run', step=step)
  history = [{'after_step': BEST, 'changes': ['config.clip.stride was 2 and is 3']}]
  file.write_text(json.dumps(content | {'changes': history}))
  assert load_run(tmp_path / 'run').config.clip.stride == tiny().clip.stride
  with pytest.raises(CheckpointError, match=f'of step {LAST} were saved with'):
    load_run(tmp_path / 'run', 'last')


def test_the_best_folder_is_a_checkpoint_and_names_its_step(run, capsys):
  best = load_pretrained(run / 'best')
  assert best.step == BEST
  assert f'{run}/best: vivit_jax run, video model factorised_encoder, step {BEST}\n' in (
    capsys.readouterr().err
  )
  assert main.main(['inspect', str(run / 'best'), '--json']) == 0
  assert json.loads(capsys.readouterr().out)['checkpoint']['format'] == 'vivit_jax run'


def test_a_step_that_is_not_there_lists_those_that_are(run):
  with pytest.raises(
    CheckpointError, match='checkpoints/5 does not exist: the steps there are 4, 8'
  ):
    evaluate_run(run, step='5')


@pytest.mark.parametrize(
  'text', ['', '4', '4x', 'x3', '0x3', '4x0', '-1x3', '4x3x2', '4 x 3', 'axb']
)
def test_views_that_are_none(text):
  with pytest.raises(ConfigError, match=r'--views=.* is not TxS, .* e\.g\. 4x3'):
    parse_views(text)


@pytest.mark.parametrize('text', ['', 'foo', '-1', '1.5', '²'])
def test_steps_that_are_none(text):
  with pytest.raises(ConfigError, match=r"--step=.* is not a step: give 'best', 'last'"):
    parse_step(text)


def test_steps_and_views():
  assert [parse_step(text) for text in ('best', 'last', '120')] == ['best', 'last', 120]
  assert parse_views('4x3') == (4, 3)
