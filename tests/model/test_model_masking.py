# SPDX-License-Identifier: Apache-2.0
"""Masks are tubes drawn from keys alone; the model sees visible places only, at their positions."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from vivit_jax.config.schema import Clip, Config, Masked, Model, Task
from vivit_jax.model import masking
from vivit_jax.model.masking import draw_places, select, split_places, spread
from vivit_jax.model.tokenizer import cut, uncut
from vivit_jax.model.vivit import ViViT, abstract_params, apply
from vivit_jax.train.masked import pixel_statistics, reconstruction_loss, reconstruction_targets
from vivit_jax.weights.load import load_source

REFERENCE = Path(__file__).parent.parent / 'reference/huggingface'
MODELS = {
  'spatio_temporal': {},
  'factorised_encoder_by_patch': {'temporal_layers': 1},
  'factorised_self_attention': {},
  'factorised_dot_product': {},
}
MASKED = Masked(0.7, decoder_layers=1, decoder_width=12, decoder_heads=2, decoder_mlp_dim=24)
CLIP = Clip(frames=4, height=16, width=24)


def model_of(attention, masked=MASKED, **changes):
  config = Model(
    attention=attention, layers=1, width=16, mlp_dim=32, heads=2, patch=(2, 8, 8), pooling='none',
    **{**MODELS[attention], **changes},
  )  # fmt: skip
  return ViViT(config, 0, masked)


def loaded(name):
  """Returns a pretraining checkpoint of Hugging Face: experiment, model, parameters, file."""
  source = load_source(REFERENCE / name)
  held = json.loads((REFERENCE / name / 'config.json').read_text())
  masked = Masked(
    11 / 16,
    decoder_layers=held['decoder_num_hidden_layers'],
    decoder_width=held['decoder_hidden_size'],
    decoder_heads=held['decoder_num_attention_heads'],
    decoder_mlp_dim=held['decoder_intermediate_size'],
  )
  mean, std = source.normalization(needs_classifier=False)
  clip = Clip(frames=8, height=32, width=32, mean=mean, std=std)
  config = Config(task=Task('masked', (), ()), model=source.model, clip=clip, masked=masked)
  params = traverse_util.unflatten_dict({**source.params, **source.decoder}, sep='/')
  return config, ViViT(source.model, 0, masked), params, np.load(REFERENCE / name / 'io.npz')


@pytest.mark.parametrize('name', ['videomae_pretraining', 'videomae_pretraining_final_norm'])
def test_predictions_and_loss_are_those_of_videomae(name):
  config, model, params, file = loaded(name)
  mask = file['mask'].reshape(2, 4, 16)
  places = jnp.asarray(np.argsort(mask[:, 0], axis=1, kind='stable'))
  found = apply(model, params, jnp.asarray(file['video']), places=places)
  np.testing.assert_allclose(found, file['logits'].reshape(2, 4, 11, 384), atol=1e-5)
  pixels = 255 * (file['video'] * np.array(config.clip.std) + np.array(config.clip.mean))
  loss = reconstruction_loss(config, model, params, jnp.asarray(pixels, jnp.float32), places)
  np.testing.assert_allclose(loss.mean(), file['loss'], atol=1e-5)
  # The other forms of the target are another loss.
  other = dataclasses.replace(config, masked=dataclasses.replace(config.masked, target='patch'))
  off = reconstruction_loss(other, model, params, jnp.asarray(pixels, jnp.float32), places).mean()
  assert abs(off - file['loss']) > 1e-3


@pytest.mark.parametrize('attention', MODELS)
def test_hidden_pixels_change_no_prediction(attention, random_params, rng):
  model = model_of(attention)
  params = random_params(abstract_params(model, CLIP))
  video = jnp.asarray(rng.uniform(-1, 1, (2, 4, 16, 24, 3)), jnp.float32)
  places = draw_places(jax.random.split(jax.random.key(0), 2), 6)
  visible, hidden = split_places(MASKED, places)
  assert visible.shape == (2, 2)
  assert hidden.shape == (2, 4)
  patches = np.array(cut(video, (2, 8, 8)))
  run = jax.jit(lambda patches: apply(model, params, jnp.asarray(patches), places=places))
  before = run(patches)
  assert before.shape == (2, 2, 4, 2 * 8 * 8 * 3)
  whole = apply(model, params, video, places=places)
  np.testing.assert_allclose(whole, before, atol=5e-6)
  changed = patches.copy()
  changed[np.arange(2)[:, None], :, hidden] = 0.0
  np.testing.assert_array_equal(run(changed), before)
  changed[0, :, visible[0, 0]] += 0.1
  assert np.abs(run(changed)[0] - before[0]).max() > 1e-4
  np.testing.assert_array_equal(run(changed)[1], before[1])


@pytest.mark.parametrize(
  'attention, positions',
  [*((attention, 'learned') for attention in MODELS), ('spatio_temporal', 'sincos')],
)
def test_all_places_visible_is_the_plain_encoder(attention, positions, random_params, rng):
  """Places in order with nothing hidden from the encoder: the same tokens as without places."""
  model = model_of(attention, dataclasses.replace(MASKED, ratio=0.0), positions=positions)
  params = random_params(abstract_params(model, CLIP))
  video = jnp.asarray(rng.uniform(-1, 1, (1, 4, 16, 24, 3)), jnp.float32)
  seen = []

  def note(call, arguments, keywords, context):
    if context.module.name == 'decoder' and context.method_name == '__call__':
      seen.append(arguments[0])
    return call(*arguments, **keywords)

  with nn.intercept_methods(note):
    model.apply({'params': params}, video, places=jnp.arange(6)[None])
  encoder = {name: part for name, part in params.items() if name != 'decoder'}
  tokens = apply(model.clone(masked=None), encoder, video)
  np.testing.assert_allclose(seen[0].reshape(tokens.shape), tokens, atol=2e-6)


@pytest.mark.parametrize('dtype', ['uint8', 'float32', 'bfloat16'])
def test_products_select_as_gathers_do(dtype, monkeypatch, rng):
  x = jnp.asarray(rng.integers(256, size=(3, 2, 9, 5)), dtype)
  index = jnp.asarray(np.stack([rng.permutation(9)[:4] for _ in range(3)]))
  expected = np.stack([np.asarray(x)[i][:, np.asarray(index)[i]] for i in range(3)])
  for products in (False, True):
    monkeypatch.setattr(masking, '_as_products', lambda products=products: products)
    found = select(x, index)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, expected)
  one = select(x[:1], index)
  np.testing.assert_array_equal(one, np.stack([np.asarray(x)[0][:, i] for i in index]))


def test_spread_puts_tokens_back(rng):
  x = jnp.asarray(rng.normal(size=(2, 3, 8, 4)), jnp.float32)
  places = draw_places(jax.random.split(jax.random.key(1), 2), 8)
  visible, hidden = split_places(Masked(0.5), places)
  filling = jnp.arange(4.0)
  found = spread(select(x, visible), places, filling)
  np.testing.assert_array_equal(select(found, visible), select(x, visible))
  assert (select(found, hidden) == filling).all()


def test_masks_are_even_and_depend_on_the_key_alone():
  keys = jax.random.split(jax.random.key(0), 2000)
  places = np.asarray(draw_places(keys, 10))
  np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(10), (2000, 1)))
  shown = np.bincount(places[:, :3].ravel(), minlength=10) / 2000
  assert np.abs(shown - 0.3).max() < 0.05
  np.testing.assert_array_equal(draw_places(keys[5:7], 10), places[5:7])


@pytest.mark.parametrize('target', ['tubelet', 'patch', 'pixels'])
def test_targets_are_those_of_plain_loops(target, rng):
  masked = Masked(target=target)
  patches = rng.integers(256, size=(2, 3, 24), dtype=np.uint8)  # 8 pixels of 3 channels
  found = reconstruction_targets(masked, jnp.asarray(patches))
  for index in np.ndindex(2, 3):
    pixels = patches[index].reshape(8, 3) / 255
    expected = pixels
    if target == 'tubelet':
      expected = (pixels - pixels.mean(0)) / (pixels.std(0, ddof=1) + 1e-6)
    if target == 'patch':
      expected = (pixels - pixels.mean()) / np.sqrt(pixels.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(found[index].reshape(8, 3), expected, atol=2e-5)
  mean, deviation = pixel_statistics(masked, jnp.asarray(patches / 255, jnp.float32))
  back = found.reshape(2, 3, 8, 3) * deviation + mean
  np.testing.assert_allclose(back.reshape(patches.shape) * 255, patches, atol=1e-3)


def test_uncut_is_the_inverse_of_cut(rng):
  video = rng.integers(256, size=(2, 4, 16, 24, 3), dtype=np.uint8)
  np.testing.assert_array_equal(uncut(cut(video, (2, 8, 4)), (2, 8, 4), (2, 6)), video)
