# SPDX-License-Identifier: Apache-2.0
"""What we write is read back bitwise, and our table of shapes is that of the models."""

import dataclasses
import json
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from vivit_jax.config.clip import HALF
from vivit_jax.config.schema import Attention, CheckpointFacts, Clip, Model, Task
from vivit_jax.errors import CheckpointError
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights import export, huggingface
from vivit_jax.weights.load import load_source
from vivit_jax.weights.source import Preprocessing, grid, shapes

REFERENCE = Path(__file__).parent.parent / 'reference'
SCENIC = sorted(path.stem for path in (REFERENCE / 'scenic').glob('*.msgpack'))
CLIP = CheckpointFacts(frames=8, height=32, width=32)


def same(first, second):
  """Whether two sources agree in all but where they come from."""
  assert first.params.keys() == second.params.keys()
  assert all(np.array_equal(first.params[n], second.params[n]) for n in first.params)
  for field in dataclasses.fields(first):
    if field.name not in ('path', 'params', 'unused'):
      assert getattr(first, field.name) == getattr(second, field.name), field.name


@pytest.mark.parametrize('name', [*(f'scenic/{n}.msgpack' for n in SCENIC), 'huggingface/vivit',
                                  'huggingface/vit', 'augreg/vit.npz'])  # fmt: skip
def test_own_export_is_the_identity(name, tmp_path):
  source = load_source(REFERENCE / name, CLIP if name.startswith('scenic') else None)
  labels = tuple(f'class {i} "é"' for i in range(source.classes))
  preprocessing = Preprocessing((0.3, 0.4, 0.5), (0.25, 0.1, 1.0), 'bgr', 4, 256)
  source = dataclasses.replace(source, labels=labels, preprocessing=preprocessing)
  export.write(source, tmp_path / 'x')
  same(source, load_source(tmp_path / 'x'))
  assert [file.name for file in tmp_path.iterdir()] == ['x']


def test_own_export_keeps_several_heads_and_loads_without(tmp_path):
  source = load_source(REFERENCE / 'scenic/factorised_encoder_cls.msgpack')
  source = dataclasses.replace(source, task=Task(heads=('noun', 'verb'), classes=(5, 2)))
  export.write(source, tmp_path / 'x.safetensors')
  same(source, load_source(tmp_path / 'x.safetensors'))
  headless = load_source(tmp_path / 'x.safetensors', CheckpointFacts(head=False))
  assert (headless.task, headless.classes) == (None, 0)
  export.write(headless, tmp_path / 'y.safetensors')
  with pytest.raises(CheckpointError, match='has no classifier'):
    load_source(tmp_path / 'y.safetensors')


def test_own_export_refuses_other_settings(tmp_path):
  source = load_source(REFERENCE / 'scenic/factorised_encoder_cls.msgpack')
  export.write(source, tmp_path / 'x')
  with pytest.raises(CheckpointError, match="attention is 'factorised_encoder' in the file, but"):
    load_source(tmp_path / 'x', CheckpointFacts(attention='spatio_temporal'))
  with pytest.raises(CheckpointError, match='frames is 8 in the file, but you gave 16'):
    load_source(tmp_path / 'x', CheckpointFacts(frames=16))


@pytest.mark.parametrize('name', ['huggingface/vivit', 'scenic/spatio_temporal_cls.msgpack'])
def test_huggingface_folder_is_the_identity(name, tmp_path):
  source = load_source(REFERENCE / name, None if 'hugging' in name else CLIP)
  source = dataclasses.replace(source, labels=tuple('abcdefg'), format='Hugging Face ViViT')
  huggingface.write(source, tmp_path / 'folder')
  again = load_source(tmp_path / 'folder', CheckpointFacts(value_range='processor'))
  # Their processor resizes in its own way; 37 is 8/7 of 32.
  wants = dataclasses.replace(source.preprocessing, short_side=37, interpolation='bilinear')
  same(dataclasses.replace(source, preprocessing=wants), again)


def test_huggingface_tensors_are_those_of_transformers(tmp_path):
  huggingface.write(load_source(REFERENCE / 'huggingface/vivit'), tmp_path)
  found = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  expected = safetensors.numpy.load_file(REFERENCE / 'huggingface/vivit/model.safetensors')
  assert found.keys() == expected.keys()
  assert all(np.array_equal(found[name], expected[name]) for name in expected)
  config = json.loads((tmp_path / 'config.json').read_text())
  theirs = json.loads((REFERENCE / 'huggingface/vivit/config.json').read_text())
  assert {k: v for k, v in config.items() if k in theirs and theirs[k] != v} == {}


@pytest.mark.parametrize('name', [n for n in SCENIC if n != 'spatio_temporal_cls'])
def test_huggingface_refuses_other_models(name, tmp_path):
  source = load_source(REFERENCE / f'scenic/{name}.msgpack', CLIP)
  with pytest.raises(CheckpointError, match="Hugging Face's ViViT is spatio_temporal with a cls"):
    huggingface.write(source, tmp_path / 'folder')
  assert not (tmp_path / 'folder').exists()


def test_the_processor_of_google_feeds_another_range(tmp_path):
  """Its config maps 0..255 to [-1, 1], then normalizes once more; ours says what was trained."""
  source = load_source(REFERENCE / 'huggingface/vivit')
  huggingface.write(source, tmp_path)
  with pytest.raises(CheckpointError, match="so value_range='processor' is not known"):
    load_source(REFERENCE / 'huggingface/vivit', CheckpointFacts(value_range='processor'))
  config = {
    'do_normalize': True,
    'do_rescale': True,
    'image_mean': [0.5] * 3,
    'image_std': [0.5] * 3,
    'offset': True,
    'rescale_factor': 1 / 127.5,
    'size': {'shortest_edge': 256},
  }
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(config))
  trained = load_source(tmp_path).preprocessing
  assert (trained.mean, trained.std, trained.short_side) == (HALF, HALF, 256)
  fed = load_source(tmp_path, CheckpointFacts(value_range='processor')).preprocessing
  assert (fed.mean, fed.std) == ((0.75,) * 3, (0.25,) * 3)  # the range [-3, 1]


@pytest.mark.parametrize('attention', typing.get_args(Attention))
@pytest.mark.parametrize('extra', [{}, {'pooling': 'mean'}, {'temporal_layers': 0}])
def test_shapes_of_all_layers_come_from_one(attention, extra):
  model = Model(attention=attention, layers=3, width=24, mlp_dim=40, heads=4, **extra)
  if attention in ('factorised_self_attention', 'factorised_dot_product'):
    model = dataclasses.replace(model, pooling='mean')
  clip = Clip(frames=6, height=32, width=64)
  expected = flatten_dict(abstract_params(ViViT(model, 5), clip), sep='/')
  found = shapes(model, grid(model, 6, 32, 64), 5)
  assert found == jax.tree.map(lambda leaf: leaf.shape, expected)
