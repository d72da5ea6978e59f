# SPDX-License-Identifier: Apache-2.0
"""A workdir can only be continued with the same experiment; free settings may change."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from vivit_jax.checkpoint.manager import CHECKPOINTS
from vivit_jax.checkpoint.workdir import (
  FREE,
  check_compatible,
  config_of_weights,
  lock_workdir,
  meaning,
  read_config,
  write_snapshot,
)
from vivit_jax.config.parse import parse
from vivit_jax.errors import CheckpointError, ConfigError

NAMES = {'label': ('a', 'b')}


def config(**sections):
  """Returns the defaults with some sections changed."""
  return parse(sections)


@pytest.fixture
def run(tmp_path):
  """A workdir with a snapshot and something trained."""
  write_snapshot(tmp_path, config(), 'fingerprint', NAMES)
  (tmp_path / CHECKPOINTS / '5').mkdir(parents=True)
  return tmp_path


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'seed': 3}, 'config.seed was 0 and is 3'),
    ({'train': {'batch_size': 32}}, 'config.train.batch_size was 64 and is 32'),
    ({'train': {'learning_rate': 0.2}}, 'config.train.learning_rate was 0.1 and is 0.2'),
    ({'train': {'steps': 9}}, 'config.train.steps was None and is 9'),
    ({'model': {'layers': 3}}, 'config.model.layers was 12 and is 3'),
    ({'model': {'patch': (2, 8, 8)}}, 'config.model.patch was [2, 16, 16] and is [2, 8, 8]'),
    ({'clip': {'stride': 1}}, 'config.clip.stride was 2 and is 1'),
    ({'augment': {'flip': 'off'}}, "config.augment.flip was 'horizontal' and is 'off'"),
    ({'data': {'moving_digits': {'seed': 1}}}, 'config.data.moving_digits.seed was 0 and is 1'),
    ({'init': {'checkpoint': 'x'}}, "config.init.checkpoint was None and is 'x'"),
  ],
)
def test_another_experiment_is_refused_naming_the_setting(run, change, message):
  with pytest.raises(ConfigError) as error:
    check_compatible(run, config(**change), 'fingerprint')
  assert str(error.value) == (
    f'{run} holds another run: {message}; give another --workdir, or --allow-changes to '
    'continue from its last checkpoint with these changes'
  )
  assert read_config(run) == config()


def test_all_differences_are_named_at_once(run):
  with pytest.raises(ConfigError) as error:
    check_compatible(run, config(seed=1, model={'layers': 2}), 'other')
  for part in ('config.seed', 'config.model.layers', 'training data was fingerprint and is other'):
    assert part in str(error.value)


FREE_CHANGES = [
  {'checkpoint': {'keep': 7}},
  {'evaluate': {'temporal_views': 1, 'batch_size': 8}},
  {'mesh': {'data': 2}},
  {'data': {'workers': 3}},
  {'data': {'root': '/moved'}},
  {'data': {'max_bad_fraction': 0.5}},
  {'train': {'grad_accum_steps': 2}},
  {'train': {'log_every': 1}},
  {'train': {'evaluate_every': 1}},
  {'train': {'checkpoint_every': 1}},
  {'model': {'scan': True}},
  {'model': {'remat': 'block'}},
  {'model': {'attention_kernel': 'blockwise'}},
  {'model': {'gradient_dtype': 'bfloat16'}},
  {'data': {'decode_timeout_seconds': 5.0}},
  {'faults': {'hang_timeout_seconds': 5.0}},
  {'train': {'patience': 3}},
  {'log': {'mlflow': 'runs'}},
]


@pytest.mark.parametrize('change', FREE_CHANGES)
def test_free_settings_change_and_are_kept(run, change):
  assert check_compatible(run, config(**change), 'fingerprint') == []
  write_snapshot(run, config(**change), 'fingerprint', NAMES)
  assert read_config(run) == config(**change)


def test_every_free_setting_was_tried():
  tried = {
    name if name in FREE else f'{name}.{setting}'
    for change in FREE_CHANGES
    for name, section in change.items()
    for setting in section
  }
  assert tried == set(FREE)


def test_a_run_that_never_saved_binds_nobody(tmp_path):
  # A first command with a mistake in it must not spoil the workdir for the corrected one.
  write_snapshot(tmp_path, config(), 'fingerprint', NAMES)
  assert check_compatible(tmp_path, config(seed=1), 'other') == []
  write_snapshot(tmp_path, config(seed=1), 'other', NAMES)
  assert read_config(tmp_path).seed == 1


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'is damaged'),
    (b'{"config": {', 'is damaged'),
    (b'\xff\xfe\x00', 'is damaged'),
    (b'[]', 'is damaged'),
    (b'null', 'is damaged'),
    (b'{"data": "x", "class_names": {}}', "is damaged (it has no 'config')"),
    (b'{"config": {}}', "is damaged (it has no 'data')"),
    (b'[' * 100_000, 'is damaged'),
    (b'{"config": {}, "data": 5, "class_names": {}}', "'data' has a wrong type"),
    (b'{"config": {}, "data": "x", "class_names": 5}', "'class_names' has a wrong type"),
    (
      b'{"config": {}, "data": "x", "class_names": {"label": [1]}}',
      "'class_names' has a wrong type",
    ),
    (b'{"config": {}, "data": "x", "class_names": {}, "changes": 1}', "'changes' has a wrong type"),
    (
      b'{"config": {}, "data": "x", "class_names": {}, "changes": [{"changes": []}]}',
      "'changes' has a wrong type",
    ),
    (b'{"config": [], "data": "x", "class_names": {}}', 'is damaged'),
    (b'{"config": {"modle": 1}, "data": "x", "class_names": {}}', 'config.modle does not exist'),
    (b'{"config": {"seed": -1}, "data": "x", "class_names": {}}', 'config.seed=-1 is out of range'),
  ],
)
def test_damaged_snapshot_is_one_line_that_names_the_file(run, content, message):
  (run / 'config.json').write_bytes(content)
  with pytest.raises(CheckpointError) as error:
    read_config(run)
  assert str(run / 'config.json') in str(error.value)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def edited(run, **sections):
  """Writes other settings into a snapshot, as by hand."""
  content = json.loads((run / 'config.json').read_text())
  for section, values in sections.items():
    content['config'][section] |= values
  (run / 'config.json').write_text(json.dumps(content))


def about(step, **sections):
  """Returns what a checkpoint says about itself."""
  return {'step': step, 'settings': meaning(config(**sections))}


@pytest.mark.parametrize(
  ('section', 'name', 'saved', 'found'),
  [
    ('model', 'gelu', 'tanh', 'exact'),
    ('model', 'norm_epsilon', 1e-6, 1e-12),
    ('clip', 'stride', 2, 4),
    ('task', 'joint', None, 'action'),
  ],
)
def test_a_snapshot_that_was_edited_is_refused(run, section, name, saved, found):
  if name == 'joint':
    edited(run, task={'heads': ['a', 'b'], 'classes': [2, 2], 'joint': 'action'})
    trained = about(5, task={'heads': ('a', 'b'), 'classes': (2, 2)})
  else:
    edited(run, **{section: {name: found}})
    trained = about(5)
  with pytest.raises(CheckpointError) as error:
    config_of_weights(run, trained)
  assert str(error.value) == (
    f'{run}/config.json has config.{section}.{name}={found!r}, but the weights of step 5 were '
    f'saved with {saved!r}: put that back'
  )


def test_training_trusts_checkpoints_over_an_edited_snapshot(run):
  edited(run, model={'gelu': 'exact'})
  changed, saved = config(model={'gelu': 'exact'}), [about(4), about(5)]
  with pytest.raises(ConfigError) as error:
    check_compatible(run, changed, 'fingerprint', saved=saved)
  assert str(error.value) == (
    f"{run} holds another run: config.model.gelu is 'tanh' in the checkpoints and 'exact' in this "
    'command; give another --workdir, or --allow-changes to continue from its '
    'last checkpoint with these changes'
  )
  (run / 'config.json').unlink()
  with pytest.raises(ConfigError, match=r'config\.model\.gelu is'):
    check_compatible(run, changed, 'fingerprint', saved=saved)
  assert check_compatible(run, config(), 'fingerprint', saved=saved) == []


def test_free_settings_and_older_checkpoints_contradict_nothing(run):
  edited(run, model={'remat': 'block', 'scan': True})
  assert config_of_weights(run, about(5)) == config(model={'remat': 'block', 'scan': True})
  edited(run, model={'gelu': 'exact'})
  assert config_of_weights(run, {'step': 5}).model.gelu == 'exact'


def test_after_an_allowed_change_weights_keep_their_settings(run):
  changed = config(model={'gelu': 'exact'})
  with pytest.raises(ConfigError, match=r'was .tanh. and is .exact.'):
    check_compatible(run, changed, 'fingerprint', saved=[about(5)])
  changes = check_compatible(run, changed, 'fingerprint', True, [about(5)])
  assert changes == ["config.model.gelu was 'tanh' and is 'exact'"]
  write_snapshot(run, changed, 'fingerprint', NAMES, changes)
  # Killed before it saved again, the same command goes on without --allow-changes.
  assert check_compatible(run, changed, 'fingerprint', saved=[about(5)]) == []
  assert config_of_weights(run, about(5)).model.gelu == 'tanh'
  assert config_of_weights(run, about(9, model={'gelu': 'exact'})) == changed
  with pytest.raises(CheckpointError, match=r'the weights of step 9 were saved with .tanh.'):
    config_of_weights(run, about(9))


def test_a_damaged_snapshot_is_not_overwritten(run):
  (run / 'config.json').write_text('{"config"')
  with pytest.raises(CheckpointError, match='is damaged'):
    check_compatible(run, config(seed=9), 'fingerprint')
  assert (run / 'config.json').read_text() == '{"config"'


def test_a_folder_without_a_run(tmp_path):
  with pytest.raises(CheckpointError, match=r'has no run \(no config\.json\): give'):
    read_config(tmp_path)


def test_the_snapshot_is_json_and_never_run(run):
  content = json.loads((run / 'config.json').read_text())
  assert set(content) == {'config', 'data', 'class_names', 'changes', 'version'}
  assert parse(content['config']) == config()


def test_two_trainers_do_not_share_a_workdir(tmp_path):
  program = (
    'import sys, pathlib\n'
    'from vivit_jax.checkpoint.workdir import lock_workdir\n'
    'with lock_workdir(pathlib.Path(sys.argv[1])):\n'
    '  print("in", flush=True); sys.stdin.read()\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as other:
    assert other.stdout is not None
    assert other.stdout.readline() == b'in\n'
    for _ in range(2):  # being refused changes nothing of what the owner wrote
      with pytest.raises(ConfigError) as error, lock_workdir(tmp_path):
        pass
      owner = rf'process {other.pid} of \S+ on {re.escape(socket.gethostname())} since 20\d\d-'
      assert re.search(rf'in use by another `vivit train` \({owner}\S+ \S+\): ', str(error.value))
      assert '\n' not in str(error.value)
    other.kill()
    other.wait(10)
  with lock_workdir(tmp_path):  # the lock went with its owner
    assert f'process {os.getpid()} ' in (tmp_path / '.lock').read_text()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
  def flock(handle, how):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', flock)
  with lock_workdir(tmp_path):
    pass
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(
    f'vivit: warning: the file system of --workdir={tmp_path} does not support locks (No '
  )


def test_allowed_changes_are_said_and_kept_in_their_order(run, capsys):
  for seed in (3, 4):
    (run / CHECKPOINTS / str(seed * 10)).mkdir()
    changes = check_compatible(run, config(seed=seed), f'data {seed}', allow_changes=True)
    write_snapshot(run, config(seed=seed), f'data {seed}', NAMES, changes)
  write_snapshot(run, config(seed=4), 'data 4', NAMES)  # and stay where nothing changes
  history = json.loads((run / 'config.json').read_text())['changes']
  assert history == [
    {
      'after_step': 30,
      'changes': [
        'config.seed was 0 and is 3',
        'the training data was fingerprint and is data 3',
      ],
    },
    {
      'after_step': 40,
      'changes': ['config.seed was 3 and is 4', 'the training data was data 3 and is data 4'],
    },
  ]
  said = capsys.readouterr().err.splitlines()
  assert said == [
    f'vivit: warning: changed in this run: {change}'
    for entry in history
    for change in entry['changes']
  ]


def test_a_workdir_that_cannot_be_made(tmp_path):
  file = tmp_path / 'file'
  file.write_text('mine')
  for workdir in (file, file / 'below'):
    with pytest.raises(ConfigError) as error, lock_workdir(workdir):
      pass
    assert str(error.value).startswith(f'--workdir={workdir} cannot be written: ')
    assert str(error.value).endswith('; give another folder')
  assert file.read_text() == 'mine'
