# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases and MLflow: what they store of a run, and that they never end one."""

import math

import pytest

from vivit_jax.config.schema import Config, Log
from vivit_jax.errors import ConfigError
from vivit_jax.train import writers
from vivit_jax.train.goodput import Goodput
from vivit_jax.train.log import RunLog
from vivit_jax.train.writers import Tracker, check_installed, open_trackers


def log(workdir, config, start, stop):
  """Logs steps as a run does that starts, or goes on, after step `start`."""
  trackers = open_trackers(config, workdir)
  with RunLog(workdir, start, 9, 8, Goodput(), trackers) as run:
    for step in range(start + 1, stop + 1):
      run.train(step, {'loss': 1 / step})
    run.validation(stop, {'top1': math.nan})


def test_nothing_is_opened_without_a_setting(tmp_path):
  check_installed(Config())
  assert open_trackers(Config(), tmp_path) == []
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('setting', ['wandb', 'mlflow'])
def test_a_missing_package_is_one_line(monkeypatch, setting):
  title, packages, kind = writers.TRACKERS[setting]
  monkeypatch.setitem(writers.TRACKERS, setting, (title, (*packages, 'no_such_package'), kind))
  with pytest.raises(ConfigError) as caught:
    check_installed(Config(log=Log(**{setting: 'digits'})))
  message = str(caught.value)
  assert message.startswith(f"config.log.{setting}='digits': {title} needs ")
  assert message.endswith(f'no_such_package: pip install "vivit_jax[{setting}]"')


class Broken:
  """A service that went away."""

  def write(self, step, values):
    raise ConnectionError(f'no answer\nat step {step}')

  def close(self, failed):
    raise AssertionError('nothing is asked of it any more')


def test_a_service_that_fails_is_said_once_and_the_run_goes_on(tmp_path, capsys):
  with RunLog(tmp_path, 0, 9, 8, Goodput(), [Tracker('Someone', Broken())]) as run:
    for step in (1, 2):
      run.train(step, {'loss': 0.5})
  warnings = capsys.readouterr().err.splitlines()
  assert warnings == [
    'vivit: warning: Someone receives no more of this run (ConnectionError: no answer at step 1); '
    'metrics.jsonl has all metrics'
  ]


def test_a_service_that_does_not_take_the_run_is_one_line(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise ValueError('not\nlogged in')

  monkeypatch.setitem(writers.TRACKERS, 'wandb', ('Someone', (), refuse))
  with pytest.raises(ConfigError) as caught:
    open_trackers(Config(log=Log(wandb='digits')), tmp_path)
  assert 'rejects the run: ValueError: not logged in; ' in str(caught.value)


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # its own, of its database
def test_mlflow_has_the_settings_and_every_step_of_a_resumed_run(tmp_path, monkeypatch):
  mlflow = pytest.importorskip('mlflow')
  monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
  config = Config(seed=7, log=Log(mlflow='digits'))
  log(tmp_path, config, 0, 2)
  log(tmp_path, config, 2, 3)
  client = mlflow.MlflowClient(f'sqlite:///{tmp_path}/mlflow.db')
  (run,) = client.search_runs([client.get_experiment_by_name('digits').experiment_id])
  assert (run.info.run_name, run.info.status) == (tmp_path.name, 'FINISHED')
  assert run.data.params['seed'] == '7'
  assert run.data.params['train.optimizer'] == 'sgd'
  history = client.get_metric_history(run.info.run_id, 'train/loss')
  assert [(row.step, row.value) for row in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
  assert math.isnan(run.data.metrics['validation/top1'])


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_wandb_has_one_run_of_a_resumed_one(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  config = Config(log=Log(wandb='digits'))
  log(tmp_path, config, 0, 2)
  log(tmp_path, config, 2, 3)
  files = sorted(path.name for path in tmp_path.glob('wandb/offline-run-*/*.wandb'))
  assert len(set(files)) == 1, 'all sessions are of one run'
