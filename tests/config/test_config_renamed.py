# SPDX-License-Identifier: Apache-2.0
"""Renamed settings: accepted in files of earlier versions, rejected on the command line."""

import json
import re

import pytest
from flax.traverse_util import flatten_dict

from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.config.file import load
from vivit_jax.config.parse import parse, setting_type, to_dict
from vivit_jax.config.renamed import NAMES, VALUES, modernize
from vivit_jax.config.schema import Config
from vivit_jax.errors import CheckpointError, ConfigError

# A value other than its default for each renamed setting, as an earlier version wrote it.
OLD = {
  'augment': {'colour': {'drop': 0.5}, 'erase': {'probability': 0.25}, 'repeats': 2, 'flip': 'off'},
  'data': {'max_bad_share': 0.5, 'timeout': 5.0},
  'faults': {
    'disk_full': 'go_on', 'hang_seconds': 5.0, 'heartbeat_seconds': 7, 'nonfinite_in_row': 3,
  },
  'init': {
    'hints': {'heads': 12}, 'head': 'taken', 'spatial_cls': 'fresh', 'temporal_attention': 'copied',
  },
  'mix': {'cutmix_share': 0.25, 'group': 4},
  'train': {'accumulate': 2, 'clip_norm': 3.0, 'clip_groups': 0, 'frozen': ['tokenizer']},
}  # fmt: skip


def test_all_old_names_and_values_are_read_as_the_new_ones():
  new = modernize(OLD)
  config = flatten_dict(to_dict(parse(new)), sep='.')
  assert len(flatten_dict(new)) == len(flatten_dict(OLD))
  for path, value in flatten_dict(new, sep='.').items():
    assert config[path] == (tuple(value) if isinstance(value, list) else value)
  assert all(re.search(rf'"{old.rpartition(".")[2]}"', json.dumps(OLD)) for old in NAMES)
  assert modernize({'augment': {'flip': 'paper'}}) == {'augment': {'flip': 'horizontal'}}


def test_new_names_stay_as_they_are():
  tree = to_dict(Config())
  assert modernize(tree) == tree


def test_each_row_leads_from_a_name_that_is_gone_to_one_that_is():
  for old, new in NAMES.items():
    with pytest.raises(ConfigError, match='is now called'):
      setting_type(old)
    section = getattr(Config(), old.partition('.')[0])
    assert hasattr(section, new)
  for path, renamed in VALUES.items():
    for new in renamed.values():
      section, name = path.split('.')
      parse({section: {name: new}})


@pytest.mark.parametrize('old', NAMES)
def test_an_old_name_is_refused_on_the_command_line(old, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from vivit_jax.config.file import defaults\ndef get_config():\n  return defaults()\n'
  )
  new = f'config.{old.rpartition(".")[0]}.{NAMES[old]}'
  with pytest.raises(ConfigError) as info:
    load([f'--config={path}', f'--config.{old}=1'])
  assert str(info.value) == f'config.{old} is now called {new}'
  section, name = old.split('.')
  for statement in (f'{section}.{name} = 1', f'{section}.{name} *= 2', f"{section}['{name}'] = 1"):
    path.write_text(
      'from vivit_jax.config.file import defaults\n\n\ndef get_config():\n'
      f'  config = defaults()\n  config.{statement}\n  return config\n'
    )
    with pytest.raises(ConfigError) as info:
      load([f'--config={path}'])
    assert str(info.value).startswith(f'--config={path} line 6: ')
    assert str(info.value).endswith(f': config.{old} is now called {new}')


def test_an_old_value_is_refused_on_the_command_line(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from vivit_jax.config.file import defaults\ndef get_config():\n  return defaults()\n'
  )
  for name, renamed in VALUES.items():
    for old, new in renamed.items():
      with pytest.raises(ConfigError) as info:
        load([f'--config={path}', f'--config.{name}={old}'])
      assert str(info.value) == f'config.{name}={old!r} is now called {new!r}'


def test_a_run_with_a_setting_under_both_names_is_refused(tmp_path):
  config = {'train': {'clip_norm': 1.0, 'grad_clip_norm': 2.0}}
  content = {'config': config, 'data': 'x', 'class_names': {'verb': ['left']}}
  (tmp_path / 'config.json').write_text(json.dumps(content))
  with pytest.raises(CheckpointError, match=r'train\.clip_norm is now called'):
    read_config(tmp_path)
