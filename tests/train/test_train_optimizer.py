# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule, clipping, momentum and weight decay against updates written by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vivit_jax.config.schema import Clip, Config, Model, Train
from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.train.optimizer import (
  depths,
  is_matrix,
  is_trained,
  learning_rate,
  make_optimizer,
  total_steps,
)

PARAMS = {'dense': {'kernel': jnp.array([[3.0, -2.0]]), 'bias': jnp.array([1.0])}}


def tree(kernel, bias):
  return {'dense': {'kernel': jnp.array([kernel]), 'bias': jnp.array([bias])}}


def run(train, gradients, steps=100):
  """Returns the parameters after each update with the given gradients."""
  optimizer = make_optimizer(train, steps)
  params, state, history = PARAMS, optimizer.init(PARAMS), []
  for gradient in gradients:
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    history.append(params)
  return history


def constant(**changes):
  """Returns settings without warm-up, clipping or momentum; near step 0 the rate is its peak."""
  plain = {'warmup_epochs': 0.0, 'grad_clip_norm': 0.0, 'momentum': 0.0, 'learning_rate': 0.1}
  return Train(**{**plain, **changes})


@pytest.mark.parametrize(
  'step, share',
  [
    (0, 0.0),
    (5, 0.5),
    (10, 1.0),
    (55, 0.5),
    (100, 0.0),
    (1000, 0.0),
    (32, (1 + math.cos(math.pi * 22 / 90)) / 2),
  ],
)
def test_schedule_warms_up_linearly_and_decays_as_a_cosine(step, share):
  train = Train(epochs=30.0, warmup_epochs=3.0, learning_rate=0.4)
  assert float(learning_rate(train, 100)(step)) == pytest.approx(0.4 * share, abs=1e-7)


@pytest.mark.parametrize('step, share', [(0, 0.2), (5, 0.6), (10, 1.0), (55, 0.55), (100, 0.1)])
def test_schedule_starts_and_ends_at_its_shares_of_the_peak(step, share):
  train = Train(epochs=30.0, warmup_epochs=3.0, learning_rate=0.4, warmup_start=0.2, final_rate=0.1)
  assert float(learning_rate(train, 100)(step)) == pytest.approx(0.4 * share, abs=1e-7)


def test_schedule_without_warm_up_starts_at_the_peak():
  train = Train(epochs=30.0, warmup_epochs=0.0, learning_rate=0.4)
  assert float(learning_rate(train, 10)(0)) == pytest.approx(0.4)


@pytest.mark.parametrize('train', [Train(), Train(warmup_epochs=30.0), Train(epochs=0.0, steps=1)])
@pytest.mark.parametrize('steps', [1, 2, 3])
def test_schedule_of_the_shortest_runs_is_finite(train, steps):
  rates = [float(learning_rate(train, steps)(step)) for step in range(steps + 1)]
  assert np.isfinite(rates).all()
  assert rates[-1] == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(
  'train, videos, steps',
  [
    (Train(epochs=30.0, batch_size=64), 640, 300),
    (Train(epochs=0.5, warmup_epochs=0.0, batch_size=64), 640, 5),
    (Train(epochs=30.0, batch_size=64, steps=7), 640, 7),
    (Train(epochs=1.0, batch_size=64), 3, 1),
  ],
)
def test_length_of_a_run(train, videos, steps):
  assert total_steps(Config(train=train), videos) == steps


def test_more_steps_than_are_counted_are_refused():
  with pytest.raises(ConfigError, match=r'epochs=1e\+300 of 64 videos are 1e\+300 steps: at most'):
    total_steps(Config(train=Train(epochs=1e300)), 64)


def test_sgd_with_momentum():
  gradient = tree([1.0, 2.0], 3.0)
  first, second = run(constant(momentum=0.9), [gradient, gradient], steps=10**6)
  np.testing.assert_allclose(first['dense']['kernel'], [[2.9, -2.2]], rtol=1e-6)
  np.testing.assert_allclose(second['dense']['kernel'], [[2.9 - 0.19, -2.2 - 0.38]], rtol=1e-6)


@pytest.mark.parametrize(
  'gradient, share',
  [(tree([3.0, 0.0], 4.0), 0.2), (tree([0.3, 0.0], 0.4), 1.0), (tree([0.0, 0.0], 0.0), 1.0)],
)
def test_clipping_scales_the_whole_gradient_to_its_norm(gradient, share):
  (found,) = run(constant(grad_clip_norm=1.0), [gradient])
  for name in ('kernel', 'bias'):
    expected = PARAMS['dense'][name] - 0.1 * share * gradient['dense'][name]
    np.testing.assert_allclose(found['dense'][name], expected, rtol=1e-6)


def test_clip_norm_zero_is_off():
  (found,) = run(constant(grad_clip_norm=0.0), [tree([300.0, 0.0], 0.0)])
  np.testing.assert_allclose(found['dense']['kernel'], [[3.0 - 30.0, -2.0]], rtol=1e-6)


def test_adamw_decays_matrices_alone_and_decoupled():
  train = constant(optimizer='adamw', weight_decay=0.5)
  (found,) = run(train, [tree([0.0, 0.0], 0.0)])
  np.testing.assert_allclose(found['dense']['kernel'], PARAMS['dense']['kernel'] * 0.95, rtol=1e-6)
  np.testing.assert_array_equal(found['dense']['bias'], PARAMS['dense']['bias'])


def test_adamw_follows_the_equations():
  train = constant(optimizer='adamw')
  gradients = [tree([1.0, -2.0], 0.5), tree([0.5, 1.0], -0.5)]
  found = run(train, gradients, steps=10**6)[-1]['dense']['kernel'][0]
  mean, square, value = np.zeros(2), np.zeros(2), np.array([3.0, -2.0])
  for step, gradient in enumerate(([1.0, -2.0], [0.5, 1.0]), start=1):
    mean = 0.9 * mean + 0.1 * np.array(gradient)
    square = 0.999 * square + 0.001 * np.array(gradient) ** 2
    value -= 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
  np.testing.assert_allclose(found, value, rtol=1e-6)


def test_sgd_adds_weight_decay_to_the_gradient_after_clipping():
  (found,) = run(constant(weight_decay=0.5, grad_clip_norm=1.0), [tree([3.0, 0.0], 4.0)])
  gradient = np.array([[0.6, 0.0]]) + 0.5 * np.array([[3.0, -2.0]])
  np.testing.assert_allclose(
    found['dense']['kernel'], np.array([[3.0, -2.0]]) - 0.1 * gradient, rtol=1e-6
  )
  np.testing.assert_allclose(found['dense']['bias'], [1.0 - 0.1 * 0.8], rtol=1e-6)


def test_weight_decay_skips_biases_norms_positions_and_cls():
  config = Model(attention='factorised_encoder', layers=1, width=8, mlp_dim=16, heads=2)
  params = abstract_params(ViViT(config, 5), Clip(frames=4, height=32, width=32))
  for path, decays in jax.tree_util.tree_leaves_with_path(is_matrix(params)):
    name = path[-1].key
    assert name in ('kernel', 'bias', 'scale', 'position', 'cls')
    assert decays == (name == 'kernel')


MODEL = Model(
  attention='factorised_encoder', layers=2, temporal_layers=1, width=8, mlp_dim=16, heads=2
)


def model_params(model=MODEL):
  return abstract_params(ViViT(model, 5), Clip(frames=4, height=32, width=32))


def by_path(tree):
  return {
    '/'.join(key.key for key in path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_depths_of_a_factorised_encoder():
  tree, last = depths(model_params())
  found = by_path(tree)
  assert last == 4
  expected = {
    'tokenizer/kernel': 0,
    'spatial/position': 0,
    'spatial/cls': 0,
    'spatial/block_0/mlp_norm/scale': 1,
    'spatial/block_1/mlp_norm/scale': 2,
    'spatial/norm/scale': 2,
    'temporal/position': 2,
    'temporal/cls': 2,
    'temporal/block_0/mlp_norm/scale': 3,
    'temporal/norm/scale': 4,
    'head/kernel': 4,
  }
  assert {name: found[name] for name in expected} == expected
  assert set(found.values()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize('layers', [0, 1])
def test_the_last_norm_belongs_to_the_head(layers):
  tree, last = depths(model_params(dataclasses.replace(MODEL, temporal_layers=layers)))
  stage = 'temporal' if layers else 'spatial'
  assert by_path(tree)[f'{stage}/norm/scale'] == last == 3 + layers


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_layer_decay_scales_what_the_optimiser_gives(optimizer):
  params = jax.tree.map(lambda x: jnp.ones(x.shape), model_params())
  depth, last = depths(params)

  def first_update(**changes):
    train = constant(optimizer=optimizer, weight_decay=0.1, **changes)
    transformation = make_optimizer(train, 100)
    return transformation.update(params, transformation.init(params), params)[0]

  plain, scaled = by_path(first_update()), by_path(first_update(layer_decay=0.5))
  for name, d in by_path(depth).items():
    np.testing.assert_allclose(scaled[name], plain[name] * 0.5 ** (last - d), rtol=1e-6)


def test_frozen_parts_have_neither_updates_nor_optimiser_state():
  params = jax.tree.map(lambda x: jnp.ones(x.shape), model_params())
  gradient = jax.tree.map(jnp.zeros_like, params)
  train = constant(optimizer='adamw', weight_decay=0.5, freeze=('tokenizer', 'spatial/block_0'))
  transformation = make_optimizer(train, 100)
  state = transformation.init(params)
  updates, _ = transformation.update(gradient, state, params)
  for name, leaf in by_path(updates).items():
    moves = name.endswith('kernel') and not name.startswith(('tokenizer/', 'spatial/block_0/'))
    assert bool(np.any(leaf)) == moves, name
  whole = make_optimizer(constant(optimizer='adamw'), 100).init(params)
  frozen = sum(not t for t in jax.tree.leaves(is_trained(params, train.freeze)))
  assert frozen > 10
  assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(whole)) - 2 * frozen


def test_freezing_unknown_parts_or_everything_is_refused():
  params = model_params()
  with pytest.raises(
    ConfigError, match=r"no parameter path starts with 'spatia'; did you mean 'spatial'"
  ):
    is_trained(params, ('spatia',))
  with pytest.raises(ConfigError, match='leaves no parameters to train'):
    is_trained(params, ('tokenizer', 'spatial', 'temporal', 'head'))
