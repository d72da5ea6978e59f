# SPDX-License-Identifier: Apache-2.0
"""Stochastic depth acts per example in all four models; dropout is a function of its key."""

import dataclasses
import functools
import typing

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vivit_jax.config.schema import Attention, Clip, Model
from vivit_jax.model.encoder import Encoder
from vivit_jax.model.stages import stages
from vivit_jax.model.transformer import Block, drop_path, drop_path_rates
from vivit_jax.model.vivit import ViViT, abstract_params, apply

SMALL = Model(layers=1, width=16, mlp_dim=32, heads=4, patch=(2, 4, 4), temporal_layers=1)
CLIP = Clip(frames=4, height=8, width=12)
ATTENTIONS = typing.get_args(Attention)
STAGES = [(a, stage.name) for a in ATTENTIONS for stage in stages(Model(attention=a))]
KEY = jax.random.key(0)


def model_of(attention, **changes):
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  return ViViT(dataclasses.replace(SMALL, attention=attention, pooling=pooling, **changes), 5)


def stage_of(attention, name):
  return next(s for s in stages(Model(attention=attention)) if s.name == name)


def compiled_block(stage, config, x, random_params):
  """Returns a function of (tokens, rate, train); one program for all rates."""
  block = Block(config, stage.series)
  params = random_params(jax.eval_shape(block.init, KEY, x))
  apply_block = jax.jit(block.apply, static_argnums=3)
  return lambda x, rate, train: apply_block(
    params, x, jnp.asarray(rate), train, rngs={'dropout': KEY}
  )


@functools.cache
def run(model):
  return jax.jit(functools.partial(apply, model))


def tokens(stage, rng, batch=4):
  grid = rng.normal(size=(batch, 3, 4, 16)).astype(np.float32)
  grid = grid if 's' in stage.pattern else grid[:, :, 0]
  return jnp.asarray(einops.rearrange(grid, stage.pattern))


@pytest.mark.parametrize('attention, name', STAGES)
def test_a_block_that_is_always_dropped_is_the_identity(attention, name, rng, random_params):
  stage = stage_of(attention, name)
  config = dataclasses.replace(SMALL, attention=attention, drop_path=1.0)
  x = tokens(stage, rng)
  block = compiled_block(stage, config, x, random_params)
  np.testing.assert_array_equal(block(x, 1.0, True), x)
  others = tuple(range(1, x.ndim))
  for rate, train in ((0.0, True), (1.0, False)):
    assert (np.abs(block(x, rate, train) - x).max(axis=others) > 0.01).all()


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_layers_that_are_always_dropped_have_no_effect(attention, rng, random_params):
  model = model_of(attention, drop_path=1.0, drop_path_schedule='paper')  # 1 layer: its rate is 1
  shapes = abstract_params(model, CLIP)
  params, others = random_params(shapes), random_params(shapes)
  for stage, leaves in params.items():  # all but the blocks is the same
    for name, leaf in leaves.items():
      if not name.startswith('block_'):
        others[stage][name] = leaf
  video = jnp.asarray(rng.uniform(-1, 1, size=(2, 4, 8, 12, 3)), jnp.float32)
  np.testing.assert_array_equal(run(model)(params, video, KEY), run(model)(others, video, KEY))
  assert np.abs(run(model)(params, video) - run(model)(others, video)).max() > 0.01


@pytest.mark.parametrize('attention', ['spatio_temporal', 'factorised_self_attention'])
def test_each_example_and_each_branch_is_dropped_on_its_own(attention, rng, random_params):
  stage = stage_of(attention, 'spacetime')
  config = dataclasses.replace(SMALL, attention=attention, drop_path=0.5)
  x = einops.repeat(tokens(stage, rng, batch=1), '1 ... -> b ...', b=64)
  found = compiled_block(stage, config, x, random_params)(x, 0.5, True).reshape(64, -1)
  patterns = len(np.unique(np.asarray(found).round(4), axis=0))
  branches = len(stage.series) + 1
  assert patterns == 2**branches


def test_dropout_draws_for_each_frame_of_a_factorised_encoder(rng, random_params):
  """Scenic maps one frame's encoder over time, so that all frames share a mask."""
  stage = stage_of('factorised_encoder', 'spatial')
  encoder = Encoder(dataclasses.replace(SMALL, dropout=0.5), stage, layers=1)
  x = jnp.asarray(np.repeat(rng.normal(size=(1, 1, 6, 16)), 3, axis=1), jnp.float32)
  params = random_params(jax.eval_shape(encoder.init, KEY, x))
  frames = jax.jit(encoder.apply, static_argnums=2)(params, x, True, rngs={'dropout': KEY})[0]
  assert np.abs(frames[0] - frames[1]).max() > 0.1
  assert np.abs(frames[1] - frames[2]).max() > 0.1


def test_dropped_examples_are_zero_and_kept_ones_whole():
  update = jnp.ones((2000, 2, 3))
  found = drop_path(update, 0.3, KEY, rescale=False)
  assert set(np.unique(found)) == {0.0, 1.0}
  assert (found == found[:, :1, :1]).all()
  assert float(found.mean()) == pytest.approx(0.7, abs=0.04)


def test_rescaling_keeps_the_expectation():
  found = drop_path(jnp.ones((2000, 2, 3)), 0.3, KEY, rescale=True)
  kept = np.unique(found)
  np.testing.assert_allclose(kept, [0.0, 1 / 0.7], rtol=1e-6)
  assert float(found.mean()) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize('rescale', [False, True])
def test_the_rates_of_the_ends(rescale):
  update = jnp.full((16, 2), 3.0)
  np.testing.assert_array_equal(drop_path(update, 0.0, KEY, rescale), update)
  np.testing.assert_array_equal(drop_path(update, 1.0, KEY, rescale), jnp.zeros((16, 2)))


def test_bfloat16_stays_bfloat16():
  update = jnp.ones((4, 2), jnp.bfloat16)
  assert drop_path(update, jnp.asarray(0.5), KEY, rescale=True).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'schedule, layers, rates',
  [
    ('from_zero', 4, [0.0, 0.1, 0.2, 0.3]),
    ('paper', 4, [0.075, 0.15, 0.225, 0.3]),
    ('from_zero', 1, [0.0]),
    ('paper', 1, [0.3]),
  ],
)
def test_rates_are_linear_over_depth(schedule, layers, rates):
  config = Model(drop_path=0.3, drop_path_schedule=schedule)
  assert drop_path_rates(config, layers) == pytest.approx(rates)


@pytest.mark.parametrize('name', ['dropout', 'attention_dropout', 'head_dropout', 'drop_path'])
def test_regularisers_depend_on_the_key_and_are_off_in_testing(name, rng, random_params):
  model = model_of('spatio_temporal', **{name: 0.5}, drop_path_schedule='paper')
  params = random_params(abstract_params(model, CLIP))
  video = jnp.asarray(rng.uniform(-1, 1, size=(8, 4, 8, 12, 3)), jnp.float32)
  plain = run(model_of('spatio_temporal'))(params, video)
  np.testing.assert_array_equal(run(model)(params, video), plain)
  first, again, other = (run(model)(params, video, jax.random.key(i)) for i in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - plain).max() > 1e-3
  assert np.abs(first - other).max() > 1e-3
