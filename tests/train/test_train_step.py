# SPDX-License-Identifier: Apache-2.0
"""One update: it learns, repeats bit for bit, and is the same on one device and on eight."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from support.steps import (
  CONFIG,
  MULTI,
  TWO_HEADS,
  assert_bitwise_equal,
  changed,
  compiled,
  leaves,
  make_batch,
  train,
)
from vivit_jax.data.pipeline import in_parts
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import host_rows, local_rows, replicated, shard_batch
from vivit_jax.errors import ConfigError
from vivit_jax.model.tokenizer import cut
from vivit_jax.model.vivit import abstract_params, build
from vivit_jax.train import step as step_module
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import abstract_state, init_state
from vivit_jax.train.step import compile_forward, host_cut


@pytest.mark.parametrize('task', [CONFIG.task, TWO_HEADS, MULTI], ids=['one', 'two', 'multi'])
def test_loss_falls_on_one_batch(task, rng):
  config = changed(task=task, model={'dropout': 0.0, 'drop_path': 0.0})
  batch = make_batch(config, rng)
  state, history = train(config, [batch] * 15)
  assert int(state.step) == 15
  assert history[-1]['loss'] < 0.5 * history[0]['loss']
  names = {
    'one': {'top1'},
    'two': {'top1', 'top1_verb', 'top1_noun'},
    'multi': {'accuracy'},
  }['multi' if task.kind == 'multi_label' else 'two' if len(task.heads) > 1 else 'one']
  assert set(history[0]) == {'loss', 'gradient_norm', 'skipped_updates'} | names


def test_first_loss_is_that_of_a_uniform_guess(rng):
  _, history = train(CONFIG, [make_batch(CONFIG, rng)])
  assert history[0]['loss'] == pytest.approx(np.log(4), rel=1e-6)


def test_steps_repeat_bit_for_bit_with_every_regulariser(rng):
  batches = [make_batch(CONFIG, rng) for _ in range(3)]
  first, first_history = train(CONFIG, batches)
  second, second_history = train(CONFIG, batches)
  assert first_history == second_history
  assert_bitwise_equal(second, first)


def test_resuming_repeats_the_uninterrupted_run_bit_for_bit(rng):
  batches = [make_batch(CONFIG, rng) for _ in range(4)]
  whole, _ = train(CONFIG, batches)
  half, _ = train(CONFIG, batches[:2])
  stored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), half)
  resumed, _ = train(CONFIG, batches[2:], start=stored)
  assert_bitwise_equal(resumed, whole)


def test_randomness_is_folded_from_seed_and_step(rng):
  config = changed(model={'dropout': 0.5}, train={'learning_rate': 0.0})
  batch = make_batch(config, rng)
  # A fresh head is zero and would hide dropout.
  model, optimizer = build(config), make_optimizer(config.train, 20)
  start = init_state(config, model, optimizer)
  start.params['head']['kernel'] = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)
  copy = lambda: jax.tree.map(jnp.copy, start)  # noqa: E731 the state is donated
  _, history = train(config, [batch] * 3, start=copy())
  assert len({metrics['loss'] for metrics in history}) == 3
  _, other = train(dataclasses.replace(config, seed=1), [batch], start=copy())
  assert other[0]['loss'] != history[0]['loss']
  later = dataclasses.replace(copy(), step=jnp.array(2, jnp.int32))
  assert train(config, [batch], start=later)[1] == history[2:]


def test_the_update_of_cpus_and_that_of_accelerators_agree(rng, monkeypatch):
  adamw = {'optimizer': 'adamw', 'weight_decay': 0.1, 'learning_rate': 1e-3, 'ema_decay': 0.9}
  config = changed(train=adamw, model={'dropout': 0.0})
  batches = [make_batch(config, rng) for _ in range(3)]
  start = init_state(config, build(config), make_optimizer(config.train, 20))

  def run(platform):
    monkeypatch.setattr(step_module, 'compiled_for', lambda: platform)
    compiled.cache_clear()
    copy = jax.tree.map(jnp.copy, start)
    good, history = train(config, batches, start=copy)
    copy = jax.tree.map(jnp.copy, start)
    copy.params['head']['kernel'] = copy.params['head']['kernel'].at[0, 0].set(jnp.nan)
    bad, skipped = train(config, batches[:1], start=copy)
    assert [metrics['skipped_updates'] for metrics in history + skipped] == [0, 0, 0, 1]
    assert int(bad.step) == 1
    assert_bitwise_equal(bad.opt_state, start.opt_state)
    return good

  in_place, by_leaf = leaves(run('cpu')), leaves(run('tpu'))
  compiled.cache_clear()
  for name, leaf in by_leaf.items():
    np.testing.assert_allclose(in_place[name], leaf, rtol=1e-6, atol=1e-8, err_msg=name)


def test_one_device_and_eight_agree_after_five_steps_of_sgd(rng):
  batches = [make_batch(CONFIG, rng) for _ in range(5)]
  one, one_history = train(CONFIG, batches, devices=1)
  eight, eight_history = train(CONFIG, batches, devices=8)
  for single, several in zip(one_history, eight_history, strict=True):
    assert several['loss'] == pytest.approx(single['loss'], rel=1e-5)
    assert several['gradient_norm'] == pytest.approx(single['gradient_norm'], rel=1e-5)
  # The momentum is the sum of the gradients so far: it is compared as a whole, leaf by leaf.
  found, expected = leaves(eight), leaves(one)
  assert {name: x.shape for name, x in found.items()} == {n: x.shape for n, x in expected.items()}
  for name, leaf in expected.items():
    difference = np.linalg.norm(found[name].astype(np.float64) - leaf)
    largest = max(np.linalg.norm(leaf), 1e-3)  # key biases: softmax leaves them no gradient
    assert difference <= 1e-5 * largest, name


def test_state_is_whole_on_each_device_and_the_old_is_donated(rng):
  model, optimizer = build(CONFIG), make_optimizer(CONFIG.train, 20)
  mesh = make_mesh(CONFIG, jax.devices())
  state = jax.device_put(init_state(CONFIG, model, optimizer), replicated(mesh))
  batch = shard_batch(mesh, make_batch(CONFIG, rng))
  assert len(batch['video'].sharding.device_set) == 8
  assert batch['video'].addressable_shards[0].data.shape[0] == 1
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # XLA warns of donated buffers that it could not use
    after, metrics = compiled(CONFIG, 8)(state, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.opt_state))
  for leaf in jax.tree.leaves((after, metrics)):
    assert leaf.sharding.is_fully_replicated
    assert len(leaf.sharding.device_set) == 8


def test_abstract_state_has_the_shapes_and_types_of_the_real_one():
  model, optimizer = build(CONFIG), make_optimizer(CONFIG.train, 20)
  describe = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
  real = init_state(CONFIG, model, optimizer)
  assert describe(abstract_state(CONFIG, model, optimizer)) == describe(real)


def test_fresh_state_is_a_function_of_the_seed():
  model, optimizer = build(CONFIG), make_optimizer(CONFIG.train, 20)
  first = init_state(CONFIG, model, optimizer)
  assert_bitwise_equal(init_state(CONFIG, model, optimizer), first)
  other = init_state(dataclasses.replace(CONFIG, seed=1), model, optimizer)
  kernel = other.params['tokenizer']['kernel']
  assert not np.array_equal(kernel, first.params['tokenizer']['kernel'])


@pytest.mark.parametrize('devices', [1, 8])
def test_forward_gives_the_rows_in_order(devices, rng, random_params):
  model = build(CONFIG)
  params = random_params(abstract_params(model, CONFIG.clip))
  video = make_batch(CONFIG, rng)['video']
  mesh = make_mesh(CONFIG, jax.devices()[:devices])
  logits = compile_forward(model, mesh)(jax.device_put(params, replicated(mesh)), {'video': video})
  expected = jax.jit(model.apply)({'params': params}, jnp.asarray(video, jnp.float32) / 127.5 - 1)
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, expected, atol=2e-6)


def test_pixels_are_normalized_as_the_clip_says(rng, random_params):
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  config = changed(clip={'mean': mean, 'std': std}, model={'dropout': 0.0, 'drop_path': 0.0})
  model, mesh = build(config), make_mesh(config, jax.devices()[:1])
  params = random_params(abstract_params(model, config.clip))
  batch = make_batch(config, rng)
  values = jnp.asarray((batch['video'] / 255 - mean) / std, jnp.float32)
  expected = jax.jit(model.apply)({'params': params}, values)
  forward = compile_forward(model, mesh, config.clip)
  np.testing.assert_allclose(forward(params, batch), expected, atol=5e-6)
  start = dataclasses.replace(
    init_state(config, model, make_optimizer(config.train, 20)), params=params
  )
  _, (metrics,) = train(config, [batch], start=start)
  labels = jax.nn.one_hot(batch['label'][:, 0], 4)
  loss = float(optax.softmax_cross_entropy(expected, labels).mean())
  assert metrics['loss'] == pytest.approx(loss, rel=1e-5)


def test_one_process_owns_every_row():
  mesh = make_mesh(CONFIG)
  assert host_rows(mesh, 16) == list(range(16))
  rows = np.arange(16, dtype=np.int32)
  np.testing.assert_array_equal(local_rows(shard_batch(mesh, rows)), rows)


def test_mesh_refuses_a_batch_that_the_devices_do_not_divide():
  config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=12))
  with pytest.raises(ConfigError, match=r'config\.train\.batch_size=12 is not divisible'):
    make_mesh(config)


def test_averaged_weights_follow_the_equation_and_are_evaluated(rng):
  config = changed(train={'ema_decay': 0.75})
  batches = [make_batch(config, rng) for _ in range(3)]
  model, optimizer = build(config), make_optimizer(config.train, 20)
  expected = leaves(init_state(config, model, optimizer).params)
  for k in range(3):
    state, _ = train(config, batches[: k + 1])
    for name, leaf in leaves(state.params).items():
      expected[name] = 0.75 * expected[name] + 0.25 * leaf
  for name, leaf in leaves(state.eval_params).items():
    np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-7)
  plain, _ = train(CONFIG, batches)
  assert_bitwise_equal(state.params, plain.params)
  assert plain.eval_params is plain.params


def test_frozen_parts_keep_their_values_bit_for_bit(rng):
  config = changed(train={'freeze': ('tokenizer', 'spacetime'), 'weight_decay': 0.1})
  before = init_state(config, build(config), make_optimizer(config.train, 20)).params
  after, _ = train(config, [make_batch(config, rng) for _ in range(2)])
  for part in ('tokenizer', 'spacetime'):
    assert_bitwise_equal(after.params[part], before[part])
  assert np.abs(after.params['head']['kernel']).max() > 0


@pytest.mark.parametrize('devices', [1, 8])
def test_groups_are_clipped_before_their_mean(devices, rng):
  """One group after the other by hand, against all of them in the step."""
  quiet = {'dropout': 0.0, 'drop_path': 0.0}
  options = {'learning_rate': 1.0, 'momentum': 0.0, 'grad_clip_norm': 0.3}
  batch = make_batch(CONFIG, rng)
  mean = None
  for part in range(4):
    rows = {name: values[2 * part : 2 * part + 2] for name, values in batch.items()}
    config = changed(model=quiet, train={**options, 'batch_size': 2})
    start = leaves(init_state(config, build(config), make_optimizer(config.train, 20)).params)
    state, metrics = train(config, [rows])
    assert metrics[0]['gradient_norm'] > 0.3  # so that clipping matters
    step = {name: leaf - start[name] for name, leaf in leaves(state.params).items()}
    mean = {name: x / 4 + (mean[name] if mean else 0) for name, x in step.items()}
  state, _ = train(changed(model=quiet, train={**options, 'grad_clip_groups': 4}), [batch], devices)
  for name, leaf in leaves(state.params).items():
    np.testing.assert_allclose(leaf - start[name], mean[name], atol=1e-6)


@pytest.mark.parametrize('settings', [{}, {'mesh': {'context': 2}}], ids=['whole', 'context'])
def test_patches_that_the_host_cuts_change_no_bit(settings, rng):
  config = changed(**settings)
  batches = [make_batch(config, rng) for _ in range(2)]
  state, history = train(config, batches, devices=2)
  by_host = functools.partial(cut, patch=config.model.patch)
  patches = [{**batch, 'video': in_parts(by_host, batch['video'])} for batch in batches]
  assert patches[0]['video'].shape == (8, 2, 6, 2 * 8 * 8 * 3)
  assert patches[0]['video'].dtype == np.uint8
  np.testing.assert_array_equal(patches[0]['video'], by_host(batches[0]['video']))
  found, same_history = train(config, patches, devices=2)
  assert same_history == history
  assert_bitwise_equal(found, state)


def test_the_host_cuts_for_tpus_where_clips_are_not_blended():
  tpu = 'TPU v5 lite'
  video = np.zeros((1, 4, 16, 24, 3), np.uint8)
  assert host_cut(CONFIG, tpu)(video).shape == (1, 2, 6, 384)
  assert host_cut(CONFIG, 'NVIDIA H100') is host_cut(CONFIG, 'cpu') is None
  assert host_cut(changed(mix={'mixup': 0.2}), tpu) is None
  sampling = {'tokenizer': 'uniform_frame_sampling', 'patch': (1, 8, 8), 'sampled_frames': 2}
  assert host_cut(changed(model=sampling), tpu) is None


def test_a_kernel_that_cannot_take_the_tokens_is_refused():
  config = changed(
    model={'attention': 'spatio_temporal', 'attention_kernel': 'short'}, mesh={'context': 2}
  )
  with pytest.raises(ConfigError, match="attention_kernel='short' takes whole sequences, which"):
    compiled(config, 2)
