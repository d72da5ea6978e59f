# SPDX-License-Identifier: Apache-2.0
"""Mixup and cutmix against a slow reference, on one device and on eight, and their statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.steps import CONFIG, TWO_HEADS, assert_bitwise_equal, changed, make_batch, train
from vivit_jax.config.parse import check
from vivit_jax.config.schema import Mix
from vivit_jax.distributed.mesh import check_devices, make_mesh
from vivit_jax.distributed.sharding import batch_sharding, replicated
from vivit_jax.errors import ConfigError
from vivit_jax.train.losses import targets as task_targets
from vivit_jax.train.mix import mix

KINDS = {
  'mixup': Mix(mixup=0.3),
  'mixup of Scenic': Mix(mixup=0.3, group_size=8),
  'cutmix': Mix(cutmix=1.0),
  'both': Mix(mixup=0.8, cutmix=1.0),
}


@pytest.fixture
def clips(rng):
  video = rng.uniform(-1, 1, (8, 2, 10, 14, 3)).astype(np.float32)
  targets = np.eye(5, dtype=np.float32)[rng.integers(5, size=8)]
  return jnp.asarray(video), jnp.asarray(targets)


@functools.partial(jax.jit, static_argnums=0)
def mixed(settings, seed, video, targets):
  return mix(settings, jax.random.key(seed), video, targets)


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('seed', range(4))
def test_pixels_and_labels_are_blended_by_one_draw_per_group(name, seed, clips):
  settings, (video, targets) = KINDS[name], clips
  new_video, new_targets = map(np.asarray, mixed(settings, seed, video, targets))
  video, targets = np.asarray(video), np.asarray(targets)
  n = settings.group_size
  for start in range(0, 8, n):
    shares = set()
    for i in range(n):
      own, other = start + i, start + n - 1 - i
      # What the first frame's red channel says about each pixel must hold for all others.
      difference = video[own, 0, ..., 0] - video[other, 0, ..., 0]
      weight = (new_video[own, 0, ..., 0] - video[other, 0, ..., 0]) / difference
      weight = weight[None, :, :, None]
      expected = weight * video[own] + (1 - weight) * video[other]
      np.testing.assert_allclose(new_video[own], expected, atol=2e-3)
      if settings.cutmix and not settings.mixup:
        np.testing.assert_allclose(weight * (1 - weight), 0, atol=1e-3)
      share = weight.mean()
      label = share * targets[own] + (1 - share) * targets[other]
      np.testing.assert_allclose(new_targets[own], label, atol=1e-4)
      shares.add(round(float(share), 3))
    assert len(shares) == 1


def test_cut_boxes_are_rectangles_of_about_the_drawn_area():
  video = jnp.stack([jnp.zeros((1, 20, 30, 1)), jnp.ones((1, 20, 30, 1))] * 64)
  targets = jnp.asarray([[1.0, 0.0], [0.0, 1.0]] * 64)
  new, labels = map(np.asarray, mixed(Mix(cutmix=1.0), 0, video, targets))
  areas = []
  for picture, label in zip(new[::2, 0, :, :, 0], labels[::2], strict=True):
    rows, columns = picture.any(axis=1), picture.any(axis=0)
    assert picture.sum() == rows.sum() * columns.sum()  # a full rectangle
    assert np.abs(np.diff(np.r_[0, rows, 0])).sum() in (0, 2)
    np.testing.assert_allclose(label[1], picture.mean(), atol=1e-6)
    areas.append(picture.mean())
  # Uniform kept shares with centres anywhere: boxes lose what lies outside; about 0.33 stays.
  assert 0.2 < np.mean(areas) < 0.42


def test_mixup_weights_follow_the_beta_distribution():
  pairs = 500  # on CPU each draw is a loop of its own
  video = jnp.stack([jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))] * pairs)
  targets = jnp.asarray([[1.0, 0.0], [0.0, 1.0]] * pairs)
  new, labels = map(np.asarray, mixed(Mix(mixup=0.3), 0, video, targets))
  weights = new[1::2].ravel()
  np.testing.assert_allclose(labels[1::2, 1], weights, atol=1e-6)
  assert weights.mean() == pytest.approx(0.5, abs=0.06)
  assert weights.var() == pytest.approx(0.25 / 1.6, rel=0.1)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_off_changes_nothing(clips):
  video, targets = mixed(Mix(), 0, *clips)
  np.testing.assert_array_equal(video, clips[0])
  np.testing.assert_array_equal(targets, clips[1])


def test_both_cuts_the_given_share_of_the_groups():
  video = jnp.stack([jnp.zeros((1, 8, 8, 1)), jnp.ones((1, 8, 8, 1))] * 500)
  targets = jnp.asarray([[1.0, 0.0], [0.0, 1.0]] * 500)
  new, _ = mixed(Mix(mixup=1.0, cutmix=1.0, cutmix_fraction=0.25), 0, video, targets)
  pairs = np.asarray(new)[::2].reshape(500, -1)
  blended = ((pairs > 1e-6) & (pairs < 1 - 1e-6)).any(axis=1)
  assert blended.mean() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
  'name, task', [('mixup', CONFIG.task), ('cutmix', CONFIG.task), ('both', TWO_HEADS)]
)
def test_one_device_and_eight_agree(name, task, rng):
  config = changed(task=task, train={'batch_size': 16}, mix=KINDS[name])
  batches = [make_batch(config, rng) for _ in range(2)]
  _, one_history = train(config, batches)
  _, eight_history = train(config, batches, devices=8)
  for single, several in zip(one_history, eight_history, strict=True):
    assert several['loss'] == pytest.approx(single['loss'], rel=1e-5)
    assert several['gradient_norm'] == pytest.approx(single['gradient_norm'], rel=1e-5)


def test_no_video_crosses_devices():
  mesh = make_mesh(CONFIG)
  rows, whole = batch_sharding(mesh), replicated(mesh)
  step = jax.jit(
    lambda key, video, targets: mix(KINDS['both'], key, video, targets),
    in_shardings=(whole, rows, rows),
    out_shardings=(rows, rows),
  )
  video, targets = jnp.zeros((32, 2, 8, 8, 3)), jnp.zeros((32, 4))
  text = step.lower(jax.random.key(0), video, targets).compile().as_text()
  assert 'all-gather' not in text
  assert 'all-to-all' not in text
  assert 'collective-permute' not in text


def test_every_step_draws_anew_and_repeats(rng):
  config = changed(mix=KINDS['mixup'], train={'learning_rate': 0.0})
  batch = make_batch(config, rng)
  first, history = train(config, [batch] * 2)
  again, repeated = train(config, [batch] * 2)
  assert history == repeated
  assert_bitwise_equal(again, first)
  targets = task_targets(config.task, jnp.asarray(batch['label']))
  video = jnp.zeros((8, 1, 1, 1, 1))
  draws = [np.asarray(mixed(config.mix, seed, video, targets)[1]) for seed in range(2)]
  assert not np.array_equal(*draws)


def test_groups_that_would_cross_devices_are_refused():
  config = changed(mix=Mix(mixup=0.3, group_size=4))
  check_devices(config, 2)
  with pytest.raises(ConfigError, match=r'config\.mix\.group_size=4 does not divide the 1 clips'):
    check_devices(config, 8)
  with pytest.raises(ConfigError, match=r'batch_size=8 is not .* by config\.mix\.group_size=3'):
    check(changed(mix=Mix(mixup=0.3, group_size=3)))
