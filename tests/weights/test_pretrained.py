# SPDX-License-Identifier: Apache-2.0
"""Loading any format with one call, its report of loaded parameters, and uses of the result."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vivit_jax import load_pretrained
from vivit_jax.cli import main
from vivit_jax.config.schema import Clip, Config, Init, Model, Task
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.model.vivit import build, init_params
from vivit_jax.weights.pretrained import initialize_params

REFERENCE = Path(__file__).parent.parent / 'reference'
CLIP = {'frames': 8, 'height': 32, 'width': 32}
SCENIC = REFERENCE / 'scenic/factorised_encoder_cls.msgpack'


def test_scenic_checkpoint_runs_and_says_what_it_left(capsys):
  pretrained = load_pretrained(SCENIC, **CLIP)
  case = np.load(SCENIC.with_suffix('.npz'))
  logits = pretrained.model.apply({'params': pretrained.params}, jnp.asarray(case['video']))
  np.testing.assert_allclose(logits, case['logits'], atol=1e-5)
  account = capsys.readouterr().err
  assert 'Scenic ViViT, video model factorised_encoder\ntaken     92 parameters' in account
  assert 'left over global_step, optimizer/state/step, rng (training state' in account


def test_hint_that_does_not_exist_is_refused_with_the_nearest():
  with pytest.raises(ConfigError, match="frame does not exist; did you mean 'frames'"):
    load_pretrained(SCENIC, frame=8)


@pytest.mark.parametrize('to', ['safetensors', 'orbax'])
def test_conversion_and_back_is_the_identity(tmp_path, to):
  target = tmp_path / 'target'
  hints = [f'--{name}={value}' for name, value in CLIP.items()]
  assert main.main(['convert', str(SCENIC), str(target), f'--to={to}', *hints]) == 0
  before, after = load_pretrained(SCENIC, **CLIP), load_pretrained(target)
  assert before.source.params.keys() == after.source.params.keys()
  for name, array in before.source.params.items():
    np.testing.assert_array_equal(after.source.params[name], array)
  assert (after.model, after.source.task) == (before.model, before.source.task)


def test_image_model_is_no_run(tmp_path, capsys):
  source = str(REFERENCE / 'augreg/vit.npz')
  assert main.main(['convert', source, str(tmp_path / 'run'), '--to=orbax']) == 2
  assert 'not a video classifier' in capsys.readouterr().err


def test_existing_target_is_not_overwritten(tmp_path, capsys):
  (tmp_path / 'mine').write_text('precious')
  assert main.main(['convert', str(SCENIC), str(tmp_path / 'mine'), '--to=safetensors']) == 2
  assert 'exists: give another TARGET' in capsys.readouterr().err
  assert (tmp_path / 'mine').read_text() == 'precious'


@pytest.mark.parametrize(
  'attention',
  ['spatio_temporal', 'factorised_encoder', 'factorised_self_attention', 'factorised_dot_product'],
)
def test_image_model_starts_every_video_model(attention):
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  model = Model(attention, 3, 48, 96, 4, patch=(2, 8, 8), temporal_layers=1, pooling=pooling)
  init = Init(str(REFERENCE / 'augreg/vit.npz'))
  config = Config(
    task=Task(classes=(3,)), model=model, clip=Clip(4, height=32, width=48), init=init
  )
  fresh = init_params(build(config), config.clip, jax.random.key(0))
  params, table = initialize_params(config, fresh)
  assert {k: v.shape for k, v in flatten_dict(params).items()} == {
    k: v.shape for k, v in flatten_dict(fresh).items()
  }
  image = np.load(REFERENCE / 'augreg/vit.npz')
  np.testing.assert_array_equal(params['tokenizer']['kernel'][1], image['embedding/kernel'])
  assert not params['tokenizer']['kernel'][0].any()
  assert 'fresh     head' in table
  assert 'left over head' in table


def test_scenic_options_copy_the_spatial_attention():
  model = Model('factorised_self_attention', 3, 48, 96, 4, patch=(2, 8, 8), pooling='mean')
  config = Config(task=Task(classes=(3,)), model=model, clip=Clip(4, height=32, width=32))
  fresh = init_params(build(config), config.clip, jax.random.key(0))
  kernels = []
  for temporal in ('zero_projection', 'copy'):
    init = Init(str(REFERENCE / 'augreg/vit.npz'), temporal_attention=temporal)
    params, _ = initialize_params(dataclasses.replace(config, init=init), fresh)
    kernels.append(params['spacetime']['block_0']['attention_time']['out']['kernel'])
  assert not kernels[0].any()
  np.testing.assert_array_equal(
    kernels[1], params['spacetime']['block_0']['attention_space']['out']['kernel']
  )


def test_missing_checkpoint_is_one_line():
  with pytest.raises(CheckpointError) as error:
    load_pretrained('no/such/file.npz')
  assert '\n' not in str(error.value)
