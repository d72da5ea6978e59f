# SPDX-License-Identifier: Apache-2.0
"""The experiments: a sweep resumes, tables and plots show what is there, and all settings parse."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

from vivit_jax.errors import ConfigError

ROOT = Path(__file__).parent.parent
NAMES = ('factorisations', 'small_data', 'views', 'tubelets')


@pytest.fixture
def modules(monkeypatch):
  """Returns an importer of experiments, which find each other as scripts do."""
  monkeypatch.syspath_prepend(str(ROOT / 'experiments'))
  monkeypatch.chdir(ROOT)
  yield importlib.import_module
  files = {path.stem for path in (ROOT / 'experiments').glob('*.py')}
  for name in files & sys.modules.keys():
    del sys.modules[name]


def made_up(run, k):
  """Returns a row as `sweep.measure` does, its numbers different for every run."""
  heads = ('verb', 'noun', 'action')
  tests = ('report', *(test.name for test in run.tests))
  return {
    'name': run.name,
    'seed': run.seed,
    'settings': list(run.settings),
    'parameters': 1000 + k,
    'gflops': 0.001 * (k + 1),
    'seconds_alone': 0.01,
    'loss': 1.0,
    'results': {test: dict.fromkeys(heads, k % 50 / 100) for test in tests},
  }


@pytest.mark.parametrize('name', NAMES)
def test_settings_parse_and_rows_are_shown(modules, tmp_path, name):
  experiment = modules(name).EXPERIMENT
  publish = modules('publish')
  runs = experiment.runs(publish.Plan(experiment.small, 3))
  for run in runs:
    run.config(tmp_path)
  assert len({run.folder for run in runs}) == len(runs)
  names = {run.name for run in runs}
  assert all([r.seed for r in runs if r.name == n] in ([0, 1, 2], [0]) for n in names)
  rows = [made_up(run, k) for k, run in enumerate(runs)]
  text = experiment.table(rows)
  last = 100 * rows[-1]['results']['report']['verb']
  assert f'({last - 2:.1f}..{last:.1f})' in text  # the three seeds of the last line
  experiment.plot(rows).savefig(tmp_path / 'plot.png')


def test_a_config_of_ones_own_replaces_the_small_settings(modules, tmp_path, monkeypatch, capsys):
  publish, factorisations = modules('publish'), modules('factorisations')
  seen = []
  monkeypatch.setattr(publish, 'sweep', lambda runs, folder: seen.extend(runs) or [])
  experiment = publish.dataclasses.replace(
    factorisations.EXPERIMENT, table=str, plot=lambda rows: publish.Figure(), finish=list
  )
  argv = ['x', '--config=configs/kinetics400.py:B/16x2', '--seeds=1', f'--results={tmp_path}']
  monkeypatch.setattr(sys, 'argv', argv)
  publish.main(experiment, '')
  config = seen[2].config(tmp_path)
  assert (config.model.width, config.model.attention) == (768, 'factorised_self_attention')
  assert json.loads((tmp_path / 'factorisations.json').read_text())['seeds'] == 1


TINY = (
  '--config=configs/moving_digits.py',
  '--config.clip.frames=2',
  '--config.clip.height=16',
  '--config.clip.width=16',
  '--config.model.layers=1',
  '--config.model.temporal_layers=1',
  '--config.model.width=8',
  '--config.model.mlp_dim=8',
  '--config.model.heads=1',
  '--config.train.steps=2',
  '--config.train.batch_size=8',
  '--config.train.log_every=1',
  '--config.data.moving_digits.train_videos=8',
  '--config.data.moving_digits.validation_videos=2',
  '--config.data.moving_digits.test_videos=2',
  '--config.evaluate.temporal_views=1',
  '--config.evaluate.batch_size=8',
)


def test_a_sweep_measures_once_goes_on_and_refuses_other_settings(modules, tmp_path, monkeypatch):
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  sweep = modules('sweep')
  test = sweep.Test('train', split='train', views=(2, 1))
  image = ('--config.clip.frames=1', '--config.model.patch=(1,8,8)')
  first = sweep.Run('image', 0, (*TINY, *image), as_image=True)
  start = '--config.init.checkpoint={runs}/image-0/image.safetensors'
  second = sweep.Run('two', 1, (*TINY, start), (test,))
  shown = []
  rows = sweep.sweep([first, second], tmp_path / 'runs', shown.append)
  assert [row['name'] for row in rows] == ['image', 'two']
  assert rows[1]['steps'] == 2
  assert set(rows[1]['results']) == {'report', 'train'}
  assert [text[:20] for text in shown] == [
    '0 of 2 runs are done',
    '1 of 2 runs are done',
    '2 of 2 runs are done',
  ]
  log = tmp_path / 'runs/two-1/log.txt'
  assert 'safetensors: vivit_jax run, image model' in log.read_text()

  (tmp_path / 'runs/two-1/experiment.json').unlink()  # stopped between training and tests
  again = sweep.sweep([first, second], tmp_path / 'runs', shown.append)
  assert again == rows
  assert log.read_text().count('step 1/2') == 1

  monkeypatch.setattr(sweep, 'train', None)
  assert sweep.sweep([first, second], tmp_path / 'runs', shown.append) == rows
  more = dataclasses.replace(second, tests=(test, sweep.Test('two views', views=(2, 1))))
  assert set(sweep.sweep([more], tmp_path / 'runs')[0]['results']) == {
    'report', 'train', 'two views'
  }  # fmt: skip
  changed = dataclasses.replace(second, settings=(*TINY, start, '--config.train.learning_rate=0.1'))
  with pytest.raises(ConfigError, match=r'two-1/experiment.json was measured with'):
    sweep.sweep([first, changed], tmp_path / 'runs')
  with pytest.raises(ConfigError, match='learning_rat'):
    sweep.sweep([sweep.Run('x', 0, (*TINY, '--config.train.learning_rat=1'))], tmp_path / 'runs')


def test_tables_and_sections_of_the_page(modules, tmp_path):
  publish = modules('publish')
  assert publish.spread([1.0, 2.0, 6.0]) == '3.0 (1.0..6.0)'
  assert publish.markdown(('a', 'b'), [('one', 2)]) == ('| a   | b |\n| --- | -: |\n| one | 2 |\n')
  page = tmp_path / 'README.md'
  page.write_text('before\n<!-- views -->\nold\n<!-- end -->\nafter <!-- other -->\n<!-- end -->')
  publish.fill_in(page, 'views', 'new\n')
  assert page.read_text() == (
    'before\n<!-- views -->\nnew\n<!-- end -->\nafter <!-- other -->\n<!-- end -->'
  )
  with pytest.raises(SystemExit, match='0 sections'):
    publish.fill_in(page, 'absent', '')
