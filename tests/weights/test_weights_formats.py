# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other programs compute in our model what those programs computed."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from vivit_jax.config.clip import HALF, of_range
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError
from vivit_jax.model.vivit import ViViT
from vivit_jax.weights import export
from vivit_jax.weights.load import load_source
from vivit_jax.weights.normalization import fold
from vivit_jax.weights.readers import open_checkpoint
from vivit_jax.weights.source import Preprocessing

REFERENCE = Path(__file__).parent.parent / 'reference'
SCENIC = sorted(path.stem for path in (REFERENCE / 'scenic').glob('*.msgpack'))
CLIP = CheckpointFacts(frames=8, height=32, width=32)


def logits(source, video):
  """The JAX model's logits of a source."""
  params = unflatten_dict(source.params, sep='/')
  return np.asarray(
    ViViT(source.model, source.classes).apply({'params': params}, jnp.asarray(video))
  )


def arrays(name):
  with np.load(REFERENCE / name) as file:
    return dict(file)


def close(found, expected):
  difference = np.max(np.abs(found - expected))
  print(f'largest difference {difference:.2e}')
  return found.shape == expected.shape and difference <= 1e-5


def message(path, hints=None):
  """The one line that a user sees, without the path."""
  with pytest.raises(CheckpointError) as error:
    load_source(path, hints)
  assert '\n' not in str(error.value)
  return error.value.reason


@pytest.mark.parametrize('name', SCENIC)
def test_scenic_logits(name):
  assert len(SCENIC) == 10
  source = load_source(REFERENCE / 'scenic' / f'{name}.msgpack', CLIP)
  expected = arrays(f'scenic/{name}.npz')
  assert close(logits(source, expected['video']), expected['logits'])
  assert (source.format, source.kind) == ('Scenic ViViT', 'video')
  assert (source.frames, source.height, source.width) == (8, 32, 32)
  assert source.unused['optimizer/state/step'] == 'training state, not parameters'


@pytest.mark.parametrize('layout', ['params', 'bare'])
def test_scenic_layouts(layout, tmp_path):
  tree = serialization.msgpack_restore((REFERENCE / f'scenic/{SCENIC[0]}.msgpack').read_bytes())
  params = tree['optimizer']['target']
  state = params if layout == 'bare' else {'params': params, 'global_step': np.int32(7)}
  (tmp_path / 'checkpoint_7').write_bytes(serialization.msgpack_serialize(state))
  shutil.copy(REFERENCE / f'scenic/{SCENIC[0]}.json', tmp_path / 'checkpoint_7.json')
  source = load_source(tmp_path / 'checkpoint_7', CLIP)
  expected = load_source(REFERENCE / f'scenic/{SCENIC[0]}.msgpack', CLIP)
  assert source.params.keys() == expected.params.keys()
  assert all(np.array_equal(source.params[n], expected.params[n]) for n in expected.params)


def test_chunked_msgpack_arrays(tmp_path, monkeypatch):
  name = 'scenic/spatio_temporal_cls'
  tree = serialization.msgpack_restore((REFERENCE / f'{name}.msgpack').read_bytes())
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 4096)
  (tmp_path / 'x.msgpack').write_bytes(serialization.msgpack_serialize(tree))
  source = load_source(tmp_path / 'x.msgpack', CLIP)
  expected = load_source(REFERENCE / f'{name}.msgpack', CLIP)
  assert all(np.array_equal(source.params[n], expected.params[n]) for n in expected.params)


def test_huggingface_vivit_logits():
  source = load_source(REFERENCE / 'huggingface/vivit')
  expected = arrays('huggingface/vivit/io.npz')
  assert close(logits(source, expected['video']), expected['logits'])
  assert (source.frames, source.height, source.width, source.classes) == (8, 32, 32, 7)


def test_module_names_of_transformers_5(tmp_path):
  """from_pretrained renames the published files to these; a bare state dict has them."""
  renamed = {}
  for name, array in safetensors.numpy.load_file(
    REFERENCE / 'huggingface/vivit/model.safetensors'
  ).items():
    for old, new in (
      ('encoder.layer', 'layers'),
      ('attention.attention.query', 'attention.q_proj'),
      ('attention.attention.key', 'attention.k_proj'),
      ('attention.attention.value', 'attention.v_proj'),
      ('attention.output.dense', 'attention.o_proj'),
      ('intermediate.dense', 'mlp.fc1'),
      ('output.dense', 'mlp.fc2'),
    ):
      name = name.replace(old, new)
    renamed[name] = array
  shutil.copy(REFERENCE / 'huggingface/vivit/config.json', tmp_path)
  save(tmp_path / 'model.safetensors', renamed)
  found, expected = load_source(tmp_path), load_source(REFERENCE / 'huggingface/vivit')
  assert all(np.array_equal(found.params[n], expected.params[n]) for n in expected.params)


@pytest.mark.parametrize(
  'path, images',
  [('huggingface/vit', 'huggingface/vit/io.npz'), ('augreg/vit.npz', 'augreg/vit_io.npz')],
)
def test_image_logits(path, images):
  source = load_source(REFERENCE / path)
  expected = arrays(images)
  assert close(logits(source, expected['image'][:, None]), expected['logits'])
  assert source.kind == 'image'
  assert source.frames == 1


def as_timm(tensors):
  """The Hugging Face image ViT under timm's names, which fuse query, key and value."""
  renamed = {}
  for name, array in tensors.items():
    for old, new in (
      ('vit.embeddings.patch_embeddings.projection', 'patch_embed.proj'),
      ('vit.embeddings.cls_token', 'cls_token'),
      ('vit.embeddings.position_embeddings', 'pos_embed'),
      ('vit.encoder.layer', 'blocks'),
      ('attention.output.dense', 'attn.proj'),
      ('intermediate.dense', 'mlp.fc1'),
      ('output.dense', 'mlp.fc2'),
      ('layernorm_before', 'norm1'),
      ('layernorm_after', 'norm2'),
      ('vit.layernorm', 'norm'),
      ('classifier', 'head'),
    ):
      name = name.replace(old, new)
    renamed[name] = array
  for layer in range(3):
    for leaf in ('weight', 'bias'):
      parts = [
        renamed.pop(f'blocks.{layer}.attention.attention.{part}.{leaf}')
        for part in ('query', 'key', 'value')
      ]
      renamed[f'blocks.{layer}.attn.qkv.{leaf}'] = np.concatenate(parts)
  return renamed


@pytest.fixture
def timm():
  return as_timm(safetensors.numpy.load_file(REFERENCE / 'huggingface/vit/model.safetensors'))


TIMM_HINTS = CheckpointFacts(heads=4, gelu='exact', norm_epsilon=1e-12)


def save(path, tensors):
  safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
  return path


def test_timm_fused_qkv(timm, tmp_path):
  source = load_source(save(tmp_path / 'timm.safetensors', timm), TIMM_HINTS)
  expected = arrays('huggingface/vit/io.npz')
  assert close(logits(source, expected['image'][:, None]), expected['logits'])


def test_timm_layer_scale_and_cls_without_position(timm, tmp_path):
  expected = load_source(save(tmp_path / 'plain.safetensors', timm), TIMM_HINTS)
  gamma = np.linspace(0.5, 2.0, 48, dtype=np.float32)
  for layer in range(3):
    for scale, name in (('ls1', 'attn.proj'), ('ls2', 'mlp.fc2')):
      timm[f'blocks.{layer}.{scale}.gamma'] = gamma
      timm[f'blocks.{layer}.{name}.weight'] = timm[f'blocks.{layer}.{name}.weight'] / gamma[:, None]
      timm[f'blocks.{layer}.{name}.bias'] = timm[f'blocks.{layer}.{name}.bias'] / gamma
  cls_position, timm['pos_embed'] = timm['pos_embed'][:, :1], timm['pos_embed'][:, 1:]
  timm['cls_token'] = timm['cls_token'] + cls_position
  source = load_source(save(tmp_path / 'scaled.safetensors', timm), TIMM_HINTS)
  video = arrays('huggingface/vit/io.npz')['image'][:, None]
  assert close(logits(source, video), logits(expected, video))


@pytest.mark.parametrize(
  'name, reason',
  [
    ('dist_token', 'a distillation token, i.e. a second token (not supported)'),
    ('reg_token', 'register tokens (not supported)'),
    ('fc_norm.weight', 'a norm after pooling (not supported)'),
    ('blocks.0.attn.q_norm.weight', 'norms of queries and keys (not supported)'),
  ],
)
def test_timm_variants_are_refused_by_name(timm, tmp_path, name, reason):
  path = save(tmp_path / 'x.safetensors', timm | {name: np.ones(48, np.float32)})
  assert message(path, TIMM_HINTS) == f'timm image ViT: {name!r} shows {reason}'


def test_unknown_names_come_with_the_nearest_known(timm, tmp_path):
  path = save(tmp_path / 'x.safetensors', timm | {'blocks.2.mlp.fc3.bias': np.ones(4, np.float32)})
  assert message(path, TIMM_HINTS) == (
    "timm image ViT: unknown parameters 'blocks.2.mlp.fc3.bias' "
    "(nearest known: 'blocks.2.mlp.fc2.bias')"
  )


def test_what_tensors_cannot_tell_must_be_said(tmp_path, timm):
  def alone(name):
    return shutil.copy(REFERENCE / f'scenic/{name}.msgpack', tmp_path / f'{name}.msgpack')

  start = 'the tensors do not determine these, so give them: '
  assert message(alone('spatio_temporal_gap'), CLIP) == (
    start + "attention: 'spatio_temporal' or 'factorised_dot_product' (their tensors are alike)"
  )
  assert message(alone('factorised_self_attention_time_space'), CLIP) == (
    start + "order: 'space_time' (the paper's) or 'time_space' (Scenic's default)"
  )
  assert message(alone('spatio_temporal_cls')) == (
    start + 'frames, or height and width (positions hold 64 = T x H x W tokens; with square '
    'frames that is one of the clips 128x8x8, 32x16x16, 8x32x32, 2x64x64)'
  )
  assert message(alone('spatio_temporal_uniform'), CLIP) == (
    start + "tokenizer: 'image' or 'uniform_frame_sampling' (their tensors are alike)"
  )
  assert message(save(tmp_path / 'timm.safetensors', timm), CheckpointFacts(heads=4)) == (
    start + "gelu: 'exact' (timm, DeiT, Hugging Face ViT) or 'tanh' (JAX programs); "
    'norm_epsilon: 1e-6 (timm, DeiT, JAX programs) or 1e-12 (Hugging Face ViT)'
  )


@pytest.mark.parametrize(
  'name, hints',
  [
    ('factorised_dot_product', CheckpointFacts(attention='factorised_dot_product', frames=8)),
    (
      'factorised_self_attention_time_space',
      CheckpointFacts(order='time_space', height=32, width=32),
    ),
    ('spatio_temporal_uniform', dataclasses.replace(CLIP, tokenizer='uniform_frame_sampling')),
    ('factorised_encoder_cls', CheckpointFacts()),
  ],
)
def test_arguments_do_what_a_side_car_does(tmp_path, name, hints):
  path = shutil.copy(REFERENCE / f'scenic/{name}.msgpack', tmp_path / 'x.msgpack')
  expected = arrays(f'scenic/{name}.npz')
  assert close(logits(load_source(path, hints), expected['video']), expected['logits'])


def test_side_car_tells_clip_stride_range_and_heads(tmp_path):
  path = shutil.copy(REFERENCE / 'scenic/spatio_temporal_cls.msgpack', tmp_path / 'x.msgpack')
  config = json.loads((REFERENCE / 'scenic/spatio_temporal_cls.json').read_text())
  config['dataset_configs'] = {
    'num_frames': 8, 'stride': 4, 'crop_size': 32, 'min_resize': 40, 'zero_centering': False,
    'class_splits': [5, 2], 'split_names': ['noun', 'verb'],
  }  # fmt: skip
  (tmp_path / 'x.json').write_text(json.dumps(config))
  source = load_source(path)
  assert (source.frames, source.height, source.width) == (8, 32, 32)
  assert source.preprocessing == Preprocessing((0.0,) * 3, (1.0,) * 3, 'rgb', 4, 40)
  assert (source.task.heads, source.task.classes) == (('noun', 'verb'), (5, 2))


def test_contradictions_name_both_sides(tmp_path):
  path = shutil.copy(REFERENCE / 'scenic/spatio_temporal_cls.msgpack', tmp_path / 'x.msgpack')
  config = json.loads((REFERENCE / 'scenic/spatio_temporal_cls.json').read_text())
  config['model']['num_heads'] = 8
  (tmp_path / 'x.json').write_text(json.dumps(config))
  assert message(path, CLIP) == 'heads is 4 in the tensors, but 8 in the side-car'
  assert message(REFERENCE / 'scenic/spatio_temporal_cls.msgpack', CheckpointFacts(frames=6)) == (
    'positions hold 64 tokens, which 3 does not divide'
  )


@pytest.mark.parametrize(
  'folder, changes, reason',
  [
    (
      'vivit', {'tubelet_size': [4, 8, 8]},
      'patch is (2, 8, 8) in the tensors, but (4, 8, 8) in the side-car',
    ),
    ('vivit', {'tubelet_size': 2}, 'patch is (2, 8, 8) in the tensors, but (2,) in the side-car'),
    (
      'vit', {'patch_size': 16},
      'patch is (1, 8, 8) in the tensors, but (1, 16, 16) in the side-car',
    ),
    ('vivit', {'num_channels': 1}, 'num_channels is 1, but only 3 is supported'),
    (
      'vivit', {'qkv_bias': False},
      "qkv_bias is False, but the tensors have 'spacetime/block_0/attention/key/bias' and 8 more",
    ),
  ],
)  # fmt: skip
def test_huggingface_config_that_contradicts_the_tensors(tmp_path, folder, changes, reason):
  for name in ('config.json', 'model.safetensors'):
    shutil.copy(REFERENCE / 'huggingface' / folder / name, tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | changes))
  assert message(tmp_path) == reason


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'stride': -3}, 'stride is -3, need a whole number >= 1'),
    ({'stride': 10**30}, f'stride is {10**30}, need a whole number >= 1'),
    (
      {'stride': 2.0},
      'its metadata is invalid: preprocessing.stride=2.0 has the wrong type: float, need int',
    ),
    ({'short_side': 0}, 'short_side is 0, need a whole number >= 1'),
    ({'stride_seconds': math.nan}, 'stride_seconds is nan, need a number above 0'),
    ({'mean': [math.nan] * 3}, 'mean is (nan, nan, nan), need finite numbers'),
    ({'std': [1.0, math.inf, 1.0]}, 'std is (1.0, inf, 1.0), need finite numbers'),
    ({'std': [1.0, 0.0, 1.0]}, 'std is (1.0, 0.0, 1.0), need numbers above 0'),
  ],
)
def test_metadata_of_ours_that_no_video_can_have(tmp_path, changes, reason):
  path = tmp_path / 'x.safetensors'
  export.write(load_source(REFERENCE / 'huggingface/vivit'), path)
  about = json.loads(open_checkpoint(path).metadata[export.KEY])
  tensors = safetensors.numpy.load_file(path)
  about['preprocessing'] |= changes
  safetensors.numpy.save_file(tensors, path, {export.KEY: json.dumps(about)})
  assert message(path) == reason


def test_a_stride_of_scenic_that_no_video_can_have(tmp_path):
  path = shutil.copy(REFERENCE / 'scenic/spatio_temporal_cls.msgpack', tmp_path / 'x.msgpack')
  config = json.loads((REFERENCE / 'scenic/spatio_temporal_cls.json').read_text())
  config['dataset_configs'] = {'num_frames': 8, 'stride': 0, 'crop_size': 32}
  (tmp_path / 'x.json').write_text(json.dumps(config))
  assert message(path) == 'stride is 0, need a whole number >= 1'


def test_image_model_of_scenic(tmp_path):
  """AugReg's file under the names of Scenic's own image ViT is the same model."""
  tree = {}
  for name, array in arrays('augreg/vit.npz').items():
    for old, new in (('LayerNorm_2', 'LayerNorm_1'), ('MlpBlock_3', 'MlpBlock_0'),
                     ('Attention_1', 'Attention_0'), ('head/', 'output_projection/')):  # fmt: skip
      name = name.replace(old, new)
    tree[name] = array
  path = tmp_path / 'vit'
  path.write_bytes(serialization.msgpack_serialize({'params': unflatten_dict(tree, sep='/')}))
  source = load_source(path, CheckpointFacts(tokenizer='image'))
  expected = load_source(REFERENCE / 'augreg/vit.npz')
  assert source.format == 'Scenic image ViT'
  assert source.model == expected.model
  assert all(np.array_equal(source.params[n], expected.params[n]) for n in expected.params)


def test_pre_logits_are_refused_unless_the_head_is_not_wanted(tmp_path):
  held = arrays('augreg/vit.npz') | {'pre_logits/kernel': np.ones((48, 48), np.float32)}
  np.savez(tmp_path / 'x.npz', **held)
  assert message(tmp_path / 'x.npz').startswith(
    "AugReg image ViT: 'pre_logits/kernel' shows a tanh"
  )
  source = load_source(tmp_path / 'x.npz', CheckpointFacts(head=False))
  assert source.task is None
  assert set(source.unused) == {'pre_logits/kernel', 'head/kernel', 'head/bias'}


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64'])
def test_other_float_types(dtype, tmp_path):
  """A float64 file is rounded once; halves are widened exactly."""
  tree = serialization.msgpack_restore(
    (REFERENCE / 'scenic/factorised_encoder_cls.msgpack').read_bytes()
  )
  flat = flatten_dict(tree['optimizer']['target'], sep='/')
  typed = {name: np.asarray(array).astype(jnp.dtype(dtype)) for name, array in flat.items()}
  path = tmp_path / 'x.msgpack'
  path.write_bytes(serialization.msgpack_serialize({'params': unflatten_dict(typed, sep='/')}))
  source = load_source(path)
  kernel = source.params['tokenizer/kernel']
  assert kernel.dtype == np.float32
  assert np.array_equal(kernel, typed['embedding/kernel'].astype(np.float32))


def test_value_range_folds_into_the_tokenizer():
  source = load_source(REFERENCE / 'augreg/vit.npz')
  low, high = (-2.1, -2.0, -1.8), (2.2, 2.4, 2.6)
  source = dataclasses.replace(source, preprocessing=Preprocessing(*of_range(low, high)))
  unit = np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)
  theirs = ((unit + 1) / 2 * (np.array(high) - np.array(low)) + np.array(low)).astype(np.float32)
  assert close(logits(fold(source, HALF, HALF), unit), logits(source, theirs))
