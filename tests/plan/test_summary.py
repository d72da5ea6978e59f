# SPDX-License-Identifier: Apache-2.0
"""What inspect says of a configuration, from shapes alone."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from vivit_jax.config.file import load
from vivit_jax.config.schema import Clip, Config, Data, Mesh, Model, Task, Train
from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import build, init_params
from vivit_jax.plan.summary import as_json, as_text, summarise, summarise_checkpoint
from vivit_jax.weights.load import load_source
from vivit_jax.weights.origins import ParameterOrigin, format_table
from vivit_jax.weights.pretrained import _account, _as_model

REFERENCE = Path(__file__).parent.parent / 'reference'
SMALL = Config(
  model=Model(layers=2, width=16, mlp_dim=32, heads=2, patch=(2, 8, 4)),
  clip=Clip(frames=6, height=16, width=24),
  data=Data(root='/nowhere'),
)


@pytest.fixture(autouse=True)
def no_devices(monkeypatch):
  """Nothing is to be placed on a device, and no data opened."""
  monkeypatch.setattr(jax, 'devices', lambda *a: pytest.fail('asked for devices'))
  monkeypatch.setattr(jax, 'device_put', lambda *a, **k: pytest.fail('put something on a device'))


def test_numbers_are_those_of_the_real_model(monkeypatch):
  summary = summarise(SMALL)
  monkeypatch.undo()
  params = init_params(build(SMALL), SMALL.clip, jax.random.key(0))
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert summary['parameters'] == count
  assert sum(part['parameters'] for part in summary['parts'].values()) == count
  assert sum(part['matmul_gflops'] for part in summary['parts'].values()) == pytest.approx(
    summary['matmul_gflops']
  )
  assert summary['bytes']['parameters'] == 4 * count
  assert summary['token_grid'] == {'time': 3, 'height': 2, 'width': 6}
  assert 0 < summary['matmul_gflops'] < summary['gflops']


def test_a_device_holds_its_part_of_what_the_table_splits():
  config = dataclasses.replace(
    SMALL, mesh=Mesh(fsdp=4), train=Train(batch_size=16, ema_decay=0.9), task=Task(classes=(10,))
  )
  whole = summarise(dataclasses.replace(config, mesh=Mesh()))['placement']
  assert whole['devices'] == 1
  assert all(row['on_a_device'] == row['numbers'] for row in whole['parameters'])
  split = summarise(config, devices=16)['placement']
  assert split['mesh'] == {'data': 4, 'fsdp': 4, 'context': 1}
  rows = {row['rule']: row for row in split['parameters']}
  others = rows.pop('all others')
  assert others['split_axis'] is None
  assert all(row['on_a_device'] == row['numbers'] / 4 for row in rows.values())
  expected = 4 * sum(row['on_a_device'] for row in (*rows.values(), others))
  sizes = split['bytes_per_device']
  assert (
    sizes['parameters'] == sizes['average'] == expected < 0.3 * whole['bytes_per_device']['average']
  )
  assert 0 <= sizes['optimizer_state'] - expected < 100
  assert 'mesh: data=4 x fsdp=4 x context=1 = 16 devices' in as_text(summarise(config, devices=16))


@pytest.mark.parametrize(
  'devices, message', [(3, 'fsdp=4 x context=1 does not divide the 3 devices'), (0, '--devices=0')]
)
def test_a_mesh_that_the_devices_do_not_fill(devices, message):
  with pytest.raises(ConfigError, match=message):
    summarise(dataclasses.replace(SMALL, mesh=Mesh(fsdp=4)), devices=devices)


@pytest.mark.parametrize(('optimizer', 'copies'), [('sgd', 1), ('adamw', 2)])
def test_optimiser_state_counts_its_copies_of_the_parameters(optimizer, copies):
  summary = summarise(Config(SMALL.seed, SMALL.task, SMALL.model, SMALL.clip,
                             train=Train(optimizer=optimizer)))  # fmt: skip
  state, parameters = summary['bytes']['optimizer_state'], summary['bytes']['parameters']
  assert 0 <= state - copies * parameters < 100  # and counters


def test_json_and_text_say_the_same():
  summary = summarise(SMALL)
  assert json.loads(as_json(summary)) == json.loads(json.dumps(summary))
  text = as_text(summary)
  assert '3 x 2 x 6 = 36 tokens' in text
  assert f'{summary["parameters"]:,}' in text
  assert "config.model.attention = 'spatio_temporal'" in text
  assert 'config.data.moving_digits.seed = 0' in text
  assert '2-16-32-2/8.4x2 spatio_temporal' in text


def test_what_a_foreign_file_says_moves_no_cursor():
  evil = '\x1b]0;title\x07\u202e\nconfig.model.layers = 1'
  source = dataclasses.replace(
    load_source(REFERENCE / 'huggingface/vivit'),
    labels=(evil,) * 7,
    format=evil,
    unused={evil: evil},
  )
  text = as_text(summarise_checkpoint(source))
  rows = [
    ParameterOrigin('fresh', evil, evil, (1,), note=evil),
    ParameterOrigin('left over', evil, None, (1,)),
  ]
  account = _account(evil, _as_model(source))
  for shown in (text, format_table(rows), account, str(ConfigError(evil))):
    assert r'\x1b]0;title\x07\u202e' in shown
    assert all(c.isprintable() or c == '\n' for c in shown)
  assert sum(line.startswith('config.model.layers') for line in text.splitlines()) == 1
  assert len(format_table(rows).splitlines()) == 3


def test_a_standard_model_has_its_name_and_size():
  file = str(Path(__file__).parent.parent.parent / 'configs/kinetics400.py')
  summary = summarise(load([f'--config={file}:B/16x2,factorised_encoder']))
  assert summary['model'] == 'B/16x2 factorised_encoder'
  assert summary['parameters'] == 115_062_928
  parts = {part.partition(' ')[0].partition('.')[0].partition('/')[0] for part in summary['parts']}
  assert parts == {'tokenizer', 'spatial', 'temporal', 'head'}
