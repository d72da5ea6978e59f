# SPDX-License-Identifier: Apache-2.0
"""Training from Python, and all examples of docs/python.md, with smaller models and fewer steps."""

import csv
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import vivit_jax as vivit
from support import runs
from vivit_jax.api.run import resolve, train
from vivit_jax.config.file import defaults, load
from vivit_jax.errors import ConfigError
from vivit_jax.train.run_evaluation import evaluate_run

ROOT = Path(__file__).parent.parent.parent
VIDEO = ROOT / 'tests' / 'golden' / 'digit.mp4'
PAGE = (ROOT / 'docs' / 'python.md').read_text()
EXAMPLES = re.findall(r'^```python(?: file=(\S+))?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
SMALL = {
  **runs.TINY,
  'train.steps': 2,
  'train.evaluate_every': 2,
  'data.moving_digits.train_videos': 8,
  'data.moving_digits.validation_videos': 2,
  'data.moving_digits.test_videos': 2,
}


def test_every_example_of_the_page_runs(tmp_path, monkeypatch, one_device, compiled_once, capfd):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.setattr(
    vivit, 'train', lambda config, workdir, settings: train(config, workdir, {**settings, **SMALL})
  )
  shutil.copy(VIDEO, 'clip.mp4')
  Path('videos').mkdir()
  shutil.copy(VIDEO, 'videos/a.mp4')
  with av.open(str(VIDEO)) as container:
    frames = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
  names = {'vivit': vivit, 'frames': frames}
  assert len(EXAMPLES) >= 9
  for file, code in EXAMPLES:
    if file:
      Path(file).write_text(code)
    else:
      exec(compile(code, 'docs/python.md', 'exec'), names)
  assert set(names['run'].metrics) >= {'top1', 'loss'}
  assert names['run'].report.is_file()
  assert names['features'].values.shape == (16,)
  assert Path('why.mp4').stat().st_size
  assert Path('program/program.bin').is_file()
  own = vivit.load('runs/own')
  assert own.labels == ('falling', 'rising')
  # The same call finds its run complete, and evaluates it again.
  again = vivit.train('moving_digits', 'runs/own', names['own'])
  assert again.step == 2
  evaluate_run(Path('runs/own'), step='last', views=(1, 1), predictions_as='csv')
  (file,) = Path('runs/own/evaluations').glob('*/predictions.csv')
  rows = list(csv.DictReader(file.read_text().splitlines()))
  assert [row['true label'] for row in rows] == ['rising', 'falling'] * 8
  with pytest.raises(vivit.UserError, match=r'config\.augment\.custom was .* and is'):
    vivit.train('moving_digits', 'runs/own', {**names['own'], 'augment.custom': ()})


def test_a_config_may_be_given_in_many_ways(tmp_path):
  settings = {'train.steps': 7, 'init.checkpoint': None, 'augment.flip': 'off'}
  expected = resolve('kinetics400:Ti/16x2', settings)
  assert expected.train.steps == 7
  file = ROOT / 'configs' / 'kinetics400.py'
  assert resolve(f'{file}:Ti/16x2', settings) == expected
  assert resolve(load(['--config=kinetics400:Ti/16x2']), settings) == expected
  assert resolve(file, {}) == resolve('kinetics400', {})
  tree = defaults()
  tree.train.steps = 3
  assert resolve(tree, {'clip.frames': 8}).clip.frames == 8
  for config in ('moving_digits', tree):
    with pytest.raises(
      ConfigError, match=r"config\.train\.step does not exist; did you mean 'steps'"
    ):
      resolve(config, {'train.step': 3})
