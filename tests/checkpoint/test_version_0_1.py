# SPDX-License-Identifier: Apache-2.0
"""Version 0.1's files: a stopped run continues, is evaluated and predicts; so does an export.

tests/reference/version_0_1 was written by that version (commit ff64bcf) on one CPU: a workdir
stopped by SIGTERM after step 3 of 6, what the uninterrupted run logged, and an export of its best
step. Most settings that have another name today were set.
"""

import json
import tarfile

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from support.runs import CONFIG, ROOT
from support.videos import write_video
from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.cli.main import main
from vivit_jax.train.log import read_metrics
from vivit_jax.weights.pretrained import load_pretrained

FILES = ROOT / 'tests/reference/version_0_1'
SETTINGS = (
  'data.moving_digits.train_videos=16',
  'data.moving_digits.validation_videos=4',
  'data.moving_digits.test_videos=4',
  'model.layers=1',
  'model.temporal_layers=1',
  'model.width=16',
  'model.mlp_dim=32',
  'model.heads=2',
  'clip.frames=4',
  'clip.height=32',
  'clip.width=32',
  'train.batch_size=4',
  'train.steps=6',
  'train.log_every=1',
  'train.evaluate_every=2',
  'train.checkpoint_every=2',
  'evaluate.batch_size=8',
  'evaluate.temporal_views=2',
  'train.grad_accum_steps=2',
  'train.grad_clip_norm=2.0',
  'faults.max_consecutive_nonfinite=5',
  'faults.on_disk_full=continue',
  'faults.hang_timeout_seconds=900',
  'data.max_bad_fraction=0.2',
  'data.decode_timeout_seconds=30',
  'augment.color_jitter.probability=0.5',
  'augment.random_erasing.probability=0.25',
  'augment.repeated_augmentation=2',
  'train.ema_decay=0.9',
)
TRAIN = ('train', f'--config={ROOT / CONFIG}', *(f'--config.{setting}' for setting in SETTINGS))


@pytest.fixture
def run(tmp_path):
  """The workdir, stopped after step 3."""
  with tarfile.open(FILES / 'run.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  return tmp_path / 'run'


def test_the_stopped_run_goes_on_as_if_it_had_not_been(run, one_device, capfd):
  config = read_config(run)
  assert config.train.grad_clip_norm == 2.0
  assert config.faults.on_disk_full == 'continue'
  assert main([*TRAIN, f'--workdir={run}']) == 0
  assert 'changed' not in capfd.readouterr().err
  text = (FILES / 'expected_metrics.jsonl').read_text()
  expected = [json.loads(line) for line in text.splitlines()]
  found = read_metrics(run)
  names = ('loss', 'gradient_norm', 'learning_rate', 'validation_top1', 'validation_top5')
  for row in expected:
    numbers = {name: value for name, value in row.items() if name in names}
    (same,) = [r for r in found if r['step'] == row['step'] and r.keys() & names >= numbers.keys()]
    for name, value in numbers.items():
      np.testing.assert_allclose(same[name], value, rtol=1e-4)
  assert main(['evaluate', f'--workdir={run}', '--step=last', '--views=1x1']) == 0
  assert (run / 'evaluations/test-6-1x1/report.json').is_file()


def test_its_export_holds_the_same_weights_and_predicts(run, tmp_path, one_device, capfd):
  export = FILES / 'export.safetensors'
  ours, theirs = (load_pretrained(path).source for path in (run, export))
  assert ours.model == theirs.model
  for name, array in flatten_dict(ours.params).items():
    np.testing.assert_allclose(array, theirs.params[name[0]], rtol=1e-4, atol=1e-6)
  video = write_video(tmp_path / 'clip.mp4')
  answers = []
  for checkpoint in (run, export):
    capfd.readouterr()
    assert main(['predict', f'--checkpoint={checkpoint}', '--json', str(video)]) == 0
    answers.append(json.loads(capfd.readouterr().out)['videos'][0]['heads']['verb'])
  for one, other in zip(*answers, strict=True):
    assert one['label'] == other['label']
    assert one['probability'] == pytest.approx(other['probability'], rel=1e-4)


def test_its_command_is_refused_with_the_new_names(run, capfd):
  assert main([*TRAIN, '--config.train.accumulate=2', f'--workdir={run}']) == 2
  assert capfd.readouterr().err == (
    'vivit: error: config.train.accumulate is now called config.train.grad_accum_steps\n'
  )
