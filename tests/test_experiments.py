# SPDX-License-Identifier: Apache-2.0
"""The experiments: a sweep resumes, tables and plots show what is there, and all settings parse."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import jax
import pytest

from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import build, video_shape
from vivit_jax.weights.load import load_source

ROOT = Path(__file__).parent.parent
NAMES = ('factorisations', 'small_data', 'views', 'tubelets', 'regularisers')


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


def test_a_config_of_ones_own_replaces_the_small_settings(modules, tmp_path, monkeypatch):
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
  '--config.model.attention=spatio_temporal',
  '--config.clip.frames=1',
  '--config.model.patch=(1,8,8)',
  '--config.clip.height=16',
  '--config.clip.width=16',
  '--config.model.layers=1',
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


def test_a_sweep_measures_once_and_refuses_other_settings(modules, tmp_path, monkeypatch):
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  sweep = modules('sweep')
  run = sweep.Run('one frame', 3, TINY, (sweep.Test('train', split='train'),), as_image=True)
  shown, folder = [], tmp_path / 'runs'
  rows = sweep.sweep([run], folder, shown.append)
  assert [text[:20] for text in shown] == ['0 of 1 runs are done', '1 of 1 runs are done']
  assert (rows[0]['name'], rows[0]['seed'], rows[0]['steps']) == ('one frame', 3, 2)
  assert set(rows[0]['results']) == {'report', 'train'}
  assert load_source(folder / 'one_frame-3/image.safetensors').kind == 'image'

  (folder / 'one_frame-3/experiment.json').unlink()  # stopped between training and tests
  assert sweep.sweep([run], folder, shown.append) == rows
  assert (folder / 'one_frame-3/log.txt').read_text().count('step 1/2') == 1

  monkeypatch.setattr(sweep, 'train', None)  # from here on nothing is trained
  assert sweep.sweep([run], folder, shown.append) == rows
  more = dataclasses.replace(run, tests=(*run.tests, sweep.Test('two views', views=(2, 1))))
  results = sweep.sweep([more], folder, shown.append)[0]['results']
  assert {name: results.pop(name) for name in ('report', 'train')} == rows[0]['results']
  assert set(results) == {'two views'}
  changed = dataclasses.replace(run, settings=(*TINY, '--config.train.learning_rate=0.1'))
  with pytest.raises(ConfigError, match=r'one_frame-3/experiment.json was measured with'):
    sweep.sweep([changed], folder)
  with pytest.raises(ConfigError, match='learning_rat'):
    sweep.sweep([sweep.Run('x', 0, (*TINY, '--config.train.learning_rat=1'))], folder)


def test_tables_and_sections_of_the_page(modules, tmp_path):
  publish = modules('publish')
  assert publish.spread([1.0, 2.0, 6.0]) == '3.0 (1.0..6.0)'
  markdown = modules('markdown_table').markdown
  assert markdown(('a', 'b'), [('one', 2)]) == '| a   | b |\n| --- | -: |\n| one | 2 |\n'
  page = tmp_path / 'README.md'
  page.write_text('before\n<!-- views -->\nold\n<!-- end -->\nafter <!-- other -->\n<!-- end -->')
  publish.fill_in(page, 'views', 'new\n')
  assert page.read_text() == (
    'before\n<!-- views -->\nnew\n<!-- end -->\nafter <!-- other -->\n<!-- end -->'
  )
  with pytest.raises(SystemExit, match='0 sections'):
    publish.fill_in(page, 'absent', '')


@pytest.mark.parametrize('attention', ['factorised_encoder', 'spatio_temporal'])
def test_the_plain_port_has_the_parameters_of_ours(modules, attention):
  contest = modules('contestant').Contest('ours', attention, size='Ti', pixels=32)
  config = modules('throughput_jax').experiment(contest)
  video = video_shape(config.clip)
  sizes = [
    sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), video)))
    for model in (build(config), modules('plain_port').PlainViViT(config.model, 400))
  ]
  assert sizes[0] == sizes[1]
