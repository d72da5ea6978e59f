# SPDX-License-Identifier: Apache-2.0
"""What inspect says of a configuration, from shapes alone."""

import json
from pathlib import Path

import jax
import pytest

from vivit_jax.config import Clip, Config, Data, Model, Train
from vivit_jax.config_file import load
from vivit_jax.model.vivit import build, init_params
from vivit_jax.summary import as_json, as_text, summarise

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


def test_a_standard_model_has_its_name_and_size():
  file = str(Path(__file__).parent.parent / 'configs/kinetics400.py')
  summary = summarise(load([f'--config={file}:B/16x2,factorised_encoder']))
  assert summary['model'] == 'B/16x2 factorised_encoder'
  assert summary['parameters'] == 115_062_928
  parts = {part.partition(' ')[0].partition('.')[0].partition('/')[0] for part in summary['parts']}
  assert parts == {'tokenizer', 'spatial', 'temporal', 'head'}
