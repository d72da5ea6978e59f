# SPDX-License-Identifier: Apache-2.0
"""One stored tree for every way to run a model, and what each factorisation begins as."""

import dataclasses
import functools
import itertools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.nnx import bridge

from support.encoders import FAMILIES
from vivit_jax.config.schema import Attention, Clip, Model
from vivit_jax.model.stages import stages
from vivit_jax.model.transformer import Block, Mlp
from vivit_jax.model.vivit import ViViT, abstract_params, apply, init_params

SMALL = Model(layers=2, width=16, mlp_dim=32, heads=4, patch=(2, 4, 4), temporal_layers=2)
CLIP = Clip(frames=4, height=8, width=12)
ATTENTIONS = (*typing.get_args(Attention), *FAMILIES)
SELF = 'factorised_self_attention'
REMAT = typing.get_args(typing.get_type_hints(Model)['remat'])
KEY = jax.random.key(0)


def model_of(attention, **changes):
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  settings = FAMILIES.get(attention, {'attention': attention, 'pooling': pooling})
  config = dataclasses.replace(SMALL, **settings)
  return ViViT(dataclasses.replace(config, **changes), 5)


@pytest.fixture
def video(rng):
  return jnp.asarray(rng.uniform(-1, 1, size=(2, 4, 8, 12, 3)), jnp.float32)


def run(model):
  return jax.jit(functools.partial(apply, model))


def described(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_stored_tree_is_the_same_however_the_model_runs(attention):
  expected = described(abstract_params(model_of(attention), CLIP))
  assert all(dtype == 'float32' for _, dtype in expected.values())
  for scan, remat, dtype in itertools.product((False, True), REMAT, ('float32', 'bfloat16')):
    model = model_of(attention, scan=scan, remat=remat, dtype=dtype)
    assert described(abstract_params(model, CLIP)) == expected


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_flax_nnx_wraps_the_model(attention, video, random_params):
  model = model_of(attention)
  params = random_params(abstract_params(model, CLIP))
  wrapped = bridge.lazy_init(bridge.ToNNX(model, rngs=nnx.Rngs(0)), video)
  held = nnx.state(wrapped, nnx.Param)
  assert described(nnx.to_pure_dict(held)) == described(params)
  nnx.replace_by_pure_dict(held, params)
  nnx.update(wrapped, held)
  np.testing.assert_allclose(wrapped(video), run(model)(params, video), rtol=1e-5, atol=1e-5)


def test_stored_tree_is_per_layer():
  params = abstract_params(model_of('factorised_encoder', scan=True), CLIP)
  assert set(params) == {'tokenizer', 'spatial', 'temporal', 'head'}
  blocks = {'block_0', 'block_1'}
  assert set(params['spatial']) == {'cls', 'position', 'norm'} | blocks
  assert set(params['temporal']) == {'cls', 'position', 'norm'} | blocks
  assert params['spatial']['block_0']['attention']['query']['kernel'].shape == (16, 4, 4)


@functools.cache
def compiled_gradient(model):
  def objective(params, video, key):
    logits = apply(model, params, video, key)
    return jnp.sum(logits * jnp.arange(5.0)), logits

  return jax.jit(jax.grad(objective, has_aux=True))


@pytest.mark.parametrize(
  'attention, how',
  [
    ('spatio_temporal', {'scan': True}),
    *(('spatio_temporal', {'remat': remat}) for remat in REMAT if remat not in ('auto', 'none')),
    ('factorised_encoder', {'scan': True, 'remat': 'elementwise'}),
    (SELF, {'scan': True, 'remat': 'dots'}),
    (SELF, {'scan': True, 'remat': 'attention'}),
    ('spatio_temporal', {'scan': True, 'remat': 'block'}),
    *((family, {'scan': True, 'remat': 'block'}) for family in FAMILIES),
    (SELF, {'scan': True, 'remat': 'block'}),  # the other two: test_model_against_scenic.py
  ],
)
def test_scan_and_remat_change_neither_logits_nor_gradients(attention, how, video, random_params):
  loop, other = model_of(attention, drop_path=0.3), model_of(attention, drop_path=0.3, **how)
  params = random_params(abstract_params(loop, CLIP))
  gradients, logits = compiled_gradient(loop)(params, video, KEY)
  other_gradients, other_logits = compiled_gradient(other)(params, video, KEY)
  np.testing.assert_allclose(other_logits, logits, atol=1e-6)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
  for ours, leaf in zip(jax.tree.leaves(other_gradients), jax.tree.leaves(gradients), strict=True):
    np.testing.assert_allclose(ours, leaf, rtol=1e-4, atol=1e-6 * largest)


def test_scan_and_remat_draw_the_same_random_numbers(video, random_params):
  random = {'dropout': 0.1, 'attention_dropout': 0.1, 'drop_path': 0.3}
  loop = model_of('spatio_temporal', **random)
  other = model_of('spatio_temporal', **random, scan=True, remat='block')
  params = random_params(abstract_params(loop, CLIP))
  expected = run(loop)(params, video, KEY)
  np.testing.assert_allclose(run(other)(params, video, KEY), expected, atol=1e-6)


@pytest.mark.parametrize(
  'attention, how',
  [
    ('spatio_temporal', {}),
    ('spatio_temporal', {'scan': True, 'remat': 'block'}),
    *((family, {}) for family in FAMILIES),
  ],
)
def test_bfloat16_activations_stay_close_and_logits_are_float32(
  attention, how, video, random_params
):
  params = random_params(abstract_params(model_of(attention), CLIP))
  exact = run(model_of(attention, **how))(params, video)
  rough = run(model_of(attention, dtype='bfloat16', **how))(params, video)
  assert rough.dtype == jnp.float32
  assert 0 < np.abs(rough - exact).max() < 0.03 * np.abs(exact).max()


def test_fresh_parameters_are_those_of_flax_bit_for_bit():
  model = model_of('spatio_temporal', layers=1)
  ours = init_params(model, CLIP, KEY)
  expected = model.init(KEY, jnp.zeros((1, 4, 8, 12, 3)))['params']
  jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_fresh_parameters_follow_the_key():
  model = model_of('spatio_temporal', layers=1)
  first, second = init_params(model, CLIP, KEY), init_params(model, CLIP, jax.random.key(1))
  kernel = ('spacetime', 'block_0', 'mlp', 'hidden', 'kernel')
  first, second = (functools.reduce(dict.__getitem__, kernel, tree) for tree in (first, second))
  assert (first != second).all()


@pytest.mark.parametrize('kind', ['central_frame', 'inflation', 'random'])
def test_tubelet_initialiser_of_the_config_arrives(kind):
  model = model_of('spatio_temporal', layers=1, tubelet_init=kind)
  kernel = init_params(model, CLIP, KEY)['tokenizer']['kernel']
  empty = [bool((frame == 0).all()) for frame in kernel]
  assert empty == ([True, False] if kind == 'central_frame' else [False, False])
  assert bool((kernel[0] == kernel[1]).all()) == (kind == 'inflation')


@pytest.mark.parametrize('order', ['space_time', 'time_space'])
def test_self_attention_begins_as_an_image_model(order, rng):
  series = stages(Model(attention=SELF, order=order))[0].series
  block = Block(SMALL, series)
  x = jnp.asarray(rng.normal(size=(2, 3, 4, 16)), jnp.float32)
  params = jax.jit(block.init)(KEY, x)
  fresh = jax.jit(block.apply)
  np.testing.assert_array_equal(fresh(params, x.at[:, 1:].add(1.0))[:, 0], fresh(params, x)[:, 0])
  assert (params['params']['attention_time']['out']['kernel'] == 0).all()
  for name in ('query', 'key', 'value'):
    assert (params['params']['attention_time'][name]['kernel'] != 0).any()
  assert (params['params']['attention_space']['out']['kernel'] != 0).any()


def test_self_attention_learns_to_look_along_time(video):
  model = model_of(SELF, layers=1)
  params = init_params(model, CLIP, KEY)
  labels = jnp.array([0, 3])

  @jax.jit
  def gradient(params):
    def loss(params):
      logits = apply(model, params, video)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.grad(loss)(params)

  def temporal(tree):
    time = tree['spacetime']['block_0']['attention_time']
    return {name: float(jnp.abs(time[name]['kernel']).max()) for name in time}

  def step(params):
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient(params))

  params = step(params)  # the head begins at zero: its own step comes first
  found = temporal(gradient(params))
  assert found.pop('out') > 1e-6
  assert set(found.values()) == {0.0}
  assert min(temporal(gradient(step(params))).values()) > 1e-9


@pytest.mark.parametrize('temporal_layers', [0, 1])
def test_order_of_the_frames_counts_with_a_temporal_layer_only(
  temporal_layers, video, random_params
):
  model = model_of('factorised_encoder', layers=1, temporal_layers=temporal_layers)
  params = random_params(abstract_params(model, CLIP))
  assert ('temporal' in params) == bool(temporal_layers)
  tubelets = video.reshape(2, 2, 2, 8, 12, 3)
  reversed_video = tubelets[:, ::-1].reshape(video.shape)
  difference = np.abs(run(model)(params, reversed_video) - run(model)(params, video)).max()
  assert difference > 1e-3 if temporal_layers else difference <= 1e-6


@pytest.mark.parametrize('kind', ['tanh', 'exact'])
def test_both_forms_of_gelu(kind, rng, random_params):
  mlp = Mlp(dataclasses.replace(SMALL, gelu=kind))
  x = jnp.asarray(rng.normal(size=(3, 16)), jnp.float32)
  params = random_params(jax.eval_shape(mlp.init, KEY, x), scale=0.5)
  hidden, out = params['params']['hidden'], params['params']['out']
  inner = np.asarray(x, np.float64) @ np.asarray(hidden['kernel']) + np.asarray(hidden['bias'])
  if kind == 'tanh':
    active = inner / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
  else:
    active = inner / 2 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
  expected = active @ np.asarray(out['kernel']) + np.asarray(out['bias'])
  np.testing.assert_allclose(mlp.apply(params, x), expected, atol=1e-5)
