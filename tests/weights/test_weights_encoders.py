# SPDX-License-Identifier: Apache-2.0
"""Encoders other than ViViT: equal to the originals, written back, adapted, or rejected."""

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from support.encoders import vjepa2_tokens
from vivit_jax.config.schema import CheckpointFacts, Clip, Config, Init, Model, Task
from vivit_jax.errors import CheckpointError
from vivit_jax.model.vivit import ViViT, abstract_params, apply, build
from vivit_jax.weights import export, huggingface
from vivit_jax.weights.initialize import initialize
from vivit_jax.weights.load import load_source
from vivit_jax.weights.pretrained import initialize_params
from vivit_jax.weights.source import grid, shapes

REFERENCE = Path(__file__).parent.parent / 'reference'
FOLDERS = ('videoprism', 'videoprism_classifier', 'videomae', 'timesformer', 'vjepa2')
CASES = [
  *((f'videoprism/{name}.npz', f'videoprism/{name}_io.npz') for name in ('encoder', 'classifier')),
  *((f'huggingface/{name}', f'huggingface/{name}/io.npz') for name in FOLDERS),
]


@functools.cache
def source_of(name):
  return load_source(REFERENCE / name)


@functools.cache
def program(model, classes):
  return jax.jit(functools.partial(apply, ViViT(model, classes)))


def outputs(source, video, **changes):
  model = dataclasses.replace(source.model, **changes)
  params = traverse_util.unflatten_dict(source.params, sep='/')
  return np.asarray(program(model, source.classes)(params, video))


def fresh_of(model, clip):
  shapes_ = abstract_params(model, clip)
  return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes_)


def difference(found, expected):
  return np.abs(found - expected.reshape(found.shape)).max()


@pytest.mark.parametrize('name, file', CASES)
def test_outputs_are_those_of_the_original(name, file):
  source, case = source_of(name), np.load(REFERENCE / file)
  for given, wanted in {
    'video': ('logits' if source.classes else 'last_hidden_state', 'embeddings'),
    'video_longer': ('logits_longer',),
  }.items():
    expected = [case[w] for w in wanted if w in case]
    if given in case:
      found = difference(outputs(source, case[given]), expected[0])
      print(f'{name} {given}: largest difference {found:.1e} of {np.abs(expected[0]).max():.2f}')
      assert found <= 5e-6


def test_tokens_of_vjepa2_are_those_of_the_original():
  source = load_source(REFERENCE / 'huggingface/vjepa2', CheckpointFacts(head=False))
  case = np.load(REFERENCE / 'huggingface/vjepa2/io.npz')
  tokens = outputs(source, case['video'], pooling='none', pooler_layers=0)
  assert difference(tokens, case['last_hidden_state']) <= 5e-6


def test_larger_clips_get_resized_positions_as_in_the_original():
  source, case = source_of('videoprism/encoder.npz'), np.load(REFERENCE / CASES[0][1])
  model = ViViT(source.model, 0)
  fresh = fresh_of(model, Clip(frames=6, height=30, width=30))
  fresh = traverse_util.flatten_dict(fresh, sep='/')
  params, _ = initialize(fresh, source.model, (6, 5, 5), source)
  larger = dataclasses.replace(source, params=params)
  found = difference(outputs(larger, case['video_larger']), case['embeddings_larger'])
  print(f'largest difference {found:.1e}')
  assert found <= 5e-6


@pytest.mark.parametrize(
  'name, file, wrong, least',
  [
    (*CASES[0], {'logit_cap': None}, 1e-3),
    (*CASES[0], {'gelu': 'tanh'}, 1e-4),
    ('huggingface/videomae', 'huggingface/videomae/io.npz', {'final_norm': 'before_pooling'}, 1e-3),
    ('huggingface/timesformer', 'huggingface/timesformer/io.npz', {'order': 'space_time'}, 1e-3),
    ('huggingface/vjepa2', 'huggingface/vjepa2/io.npz', {'positions': 'rotary_interleaved'}, 5e-5),
  ],
)
def test_the_wrong_variant_gives_other_numbers(name, file, wrong, least):
  source, case = source_of(name), np.load(REFERENCE / file)
  found = outputs(source, case['video'], **wrong)
  expected = case['embeddings' if 'embeddings' in case else 'logits']
  print(f'{name} {wrong}: {difference(found, expected):.1e}')
  assert difference(found, expected) > least
  if 'logit_cap' in wrong:  # which the original's authors would see too
    assert difference(found, case['embeddings_without_cap']) <= 5e-6


def test_gains_without_their_1_give_other_numbers():
  source, case = source_of(CASES[0][0]), np.load(REFERENCE / CASES[0][1])
  bare = {n: a - 1 if n.endswith('scale') else a for n, a in source.params.items()}
  wrong = outputs(dataclasses.replace(source, params=bare), case['video'])
  assert difference(wrong, case['embeddings']) > 1e-1


@pytest.fixture(scope='module')
def wide():
  """A model of a grid of 2 x 16 x 16 tokens and large weights, and a clip."""
  model = Model(
    'spatio_temporal', 2, 40, 48, 2, patch=(1, 2, 2), pooling='none', positions='rotary_tiled',
    gelu='exact',
  )  # fmt: skip
  rng = np.random.default_rng(0)
  video = rng.normal(size=(1, 2, 32, 32, 3)).astype(np.float32)

  def leaf(path, shape):
    center = float(path[-1].key == 'scale')
    return (center + 0.3 * rng.normal(size=shape.shape)).astype(np.float32)

  shapes = abstract_params(ViViT(model, 0), Clip(frames=2, height=32, width=32))
  return model, jax.tree_util.tree_map_with_path(leaf, shapes), video


@pytest.mark.parametrize('interleaved, grid', [(False, None), (True, None), (True, 12)])
def test_rotary_positions_are_those_of_the_formula(wide, interleaved, grid):
  model, params, video = wide
  kinds = {False: 'rotary_tiled', True: 'rotary_interleaved'}
  own = dataclasses.replace(model, positions=kinds[interleaved], rotary_grid=grid)
  found = np.asarray(program(own, 0)(params, video))
  expected = vjepa2_tokens(params, video, interleaved, grid)
  other = vjepa2_tokens(params, video, not interleaved, grid)
  wrong, right = difference(found, other), difference(found, expected)
  print(f'{own.positions}, rotary_grid={grid}: {right:.1e}; the other form {wrong:.1e}')
  assert right <= 1e-5
  assert wrong > 1e-3
  if grid:
    assert difference(found, vjepa2_tokens(params, video, interleaved)) > 1e-3


@pytest.mark.parametrize('name', FOLDERS)
def test_folders_are_written_as_they_were(name, tmp_path):
  source, folder = source_of(f'huggingface/{name}'), REFERENCE / 'huggingface' / name
  huggingface.write(source, tmp_path / 'folder')
  found = safetensors.numpy.load_file(tmp_path / 'folder/model.safetensors')
  expected = safetensors.numpy.load_file(folder / 'model.safetensors')
  expected = {n: a for n, a in expected.items() if n not in source.unused}
  assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}
  for tensor in expected:  # bitwise but for gains less 1
    np.testing.assert_allclose(found[tensor], expected[tensor], rtol=0, atol=1.3e-7)
  config = json.loads((tmp_path / 'folder/config.json').read_text())
  theirs = json.loads((folder / 'config.json').read_text())
  if not source.classes:
    del config['id2label'], config['label2id']
  assert {k: v for k, v in config.items() if k in theirs and theirs[k] != v} == {}
  again = load_source(tmp_path / 'folder')
  assert (again.model, again.grid, again.task) == (source.model, source.grid, source.task)


@pytest.mark.parametrize('name', ['videoprism/encoder.npz', 'huggingface/timesformer'])
def test_own_export_of_an_encoder_is_the_identity(name, tmp_path):
  source = source_of(name)
  export.write(source, tmp_path / 'x')
  again = load_source(tmp_path / 'x')
  assert (again.model, again.task, again.grid) == (source.model, source.task, source.grid)
  assert all(np.array_equal(again.params[n], source.params[n]) for n in source.params)


@pytest.mark.parametrize('norm', [False, True])
def test_pretrained_encoders_come_without_their_decoder(norm):
  name = 'videomae_pretraining' + ('_final_norm' if norm else '')
  source = source_of(f'huggingface/{name}')
  assert source.task is None
  assert set(source.unused.values()) == {'the decoder of pretraining'}
  assert {'decoder.head.weight', 'mask_token', 'encoder_to_decoder.weight'} <= set(source.unused)
  assert ('spacetime/norm/scale' in source.params) == norm


@pytest.mark.parametrize(
  'name, frames, size, changes',
  [
    ('videoprism/encoder.npz', 6, 30, {'pooling': 'attention', 'pooler_width': 64}),
    ('huggingface/videoprism_classifier', 2, 36, {}),
    (
      'huggingface/videomae_pretraining', 4, 48,
      {'pooling': 'mean', 'final_norm': 'after_pooling'},
    ),
    ('huggingface/timesformer', 6, 48, {}),
    ('huggingface/vjepa2', 8, 32, {}),
  ],
)  # fmt: skip
def test_encoders_start_classifiers_of_other_clips(name, frames, size, changes):
  model = dataclasses.replace(source_of(name).model, **changes)
  clip = Clip(frames=frames, height=size, width=size)
  init = Init(checkpoint=str(REFERENCE / name))
  config = Config(task=Task(classes=(3,)), model=model, clip=clip, init=init)
  built = build(config)
  params, table = initialize_params(config, fresh_of(built, clip))
  assert 'fresh     head' in table
  assert 'taken     tokenizer' in table
  video = np.ones((1, frames, size, size, 3), np.float32)
  logits = program(built.config, 3)(params, video)
  assert logits.shape == (1, 3)
  assert np.isfinite(logits).all()
  assert np.any(logits != logits[:, :1] * 0)


def test_other_positions_or_caps_are_refused():
  name = 'videoprism/encoder.npz'
  model = dataclasses.replace(source_of(name).model, pooling='attention', logit_cap=None)
  config = Config(task=Task(classes=(3,)), model=model, clip=Clip(4, height=24, width=24))
  config = dataclasses.replace(config, init=Init(checkpoint=str(REFERENCE / name)))
  fresh = fresh_of(build(config), config.clip)
  with pytest.raises(CheckpointError, match=r'has logit_cap 50\.0, .*set config\.model\.logit_cap'):
    initialize_params(config, fresh)


def _other_config(tensors, config):
  config['model_type'] = 'timesformer'


def _without_layer(tensors, config):
  for name in [n for n in tensors if '.layer.0.' in n]:
    del tensors[name]


def _additional_layer(tensors, config):
  for name in [n for n in tensors if '.layer.1.' in n]:
    tensors[name.replace('.layer.1.', '.layer.2.')] = tensors[name]


def _missing_tensor(tensors, config):
  del tensors['fc_norm.bias']


def _foreign_tensors(tensors, config):
  tensors['vjepa2.encoder.layer.0.norm1.weight'] = np.zeros(32, np.float32)


def _wide_head(tensors, config):
  tensors['classifier.weight'] = np.zeros((7, 48), np.float32)


def _registers(tensors, config):
  tensors['videomae.embeddings.register_tokens'] = np.zeros((1, 4, 32), np.float32)


def _query_norm(tensors, config):
  tensors['videomae.encoder.layer.0.attention.attention.q_norm.weight'] = np.zeros(8, np.float32)


def _cls_pooling(tensors, config):
  config['use_mean_pooling'] = False


def _without_bias(tensors, config):
  config['qv_bias'] = False


@pytest.mark.parametrize(
  'spoil, message',
  [
    (_other_config, "model_type is 'timesformer', but the tensors are of videomae"),
    (_without_layer, r'spacetime/block_0/attention/query/kernel \(in our names\) is missing'),
    (_additional_layer, 'layers is 3 in the tensors, but 2 in the side-car'),
    (_missing_tensor, 'misses .spacetime/norm/bias.'),
    (_foreign_tensors, "unknown parameters 'vjepa2.encoder.layer.0.norm1.weight'"),
    (_wide_head, r'head/kernel \(in our names\) has shape \(48, 7\), its model needs \(32, 7\)'),
    (_registers, "unknown parameters 'videomae.embeddings.register_tokens'"),
    (_query_norm, r'unknown parameters .*q_norm\.weight'),
    (_cls_pooling, "use_mean_pooling is False, but the tensors have 'fc_norm.weight'"),
    (_without_bias, 'qv_bias is False, but the tensors have'),
  ],
)
def test_what_fits_no_model_is_refused_by_name(spoil, message, tmp_path):
  folder = tmp_path / 'folder'
  shutil.copytree(REFERENCE / 'huggingface/videomae', folder)
  tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
  config = json.loads((folder / 'config.json').read_text())
  spoil(tensors, config)
  safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(config))
  with pytest.raises(CheckpointError, match=message) as error:
    load_source(folder)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'extra, message',
  [
    ('params/text_encoder/token_emb/emb_var', "LvT's text tower"),
    ('params/auxiliary_encoder/transformers_stack/x_layers/layer_norm/bias', "LvT's text tower"),
    ('params/spatial_encoder/transformers_stack/x_layers/self_attention/q_norm/scale', 'unknown'),
  ],
)
def test_other_towers_of_videoprism_are_refused_by_name(extra, message, tmp_path):
  arrays = dict(np.load(REFERENCE / 'videoprism/encoder.npz'))
  np.savez(tmp_path / 'x.npz', **arrays, **{extra: np.zeros((3, 32), np.float32)})
  with pytest.raises(CheckpointError, match=message):
    load_source(tmp_path / 'x.npz')


@pytest.mark.parametrize(
  'settings, classes, clip, parameters',
  [
    (
      {'attention': 'factorised_encoder_by_patch', 'patch': (1, 18, 18), 'pooling': 'none'},
      0, Clip(16, height=288, width=288), 114_365_184,
    ),
    (
      {'pooling': 'mean', 'positions': 'sincos', 'key_bias': False, 'final_norm': 'after_pooling'},
      400, Clip(16), 86_534_800,
    ),
    (
      {
        'attention': 'factorised_self_attention', 'patch': (1, 16, 16), 'pooling': 'shared_cls',
        'positions': 'separable', 'time_dense': True,
      },
      400, Clip(8), 121_566_352,
    ),
  ],
)  # fmt: skip
def test_base_models_have_as_many_parameters_as_published(settings, classes, clip, parameters):
  model = Model(**settings)
  tokens = grid(model, clip.frames, clip.height, clip.width)
  assert sum(map(math.prod, shapes(model, tokens, classes).values())) == parameters
