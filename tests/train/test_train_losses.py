# SPDX-License-Identifier: Apache-2.0
"""Losses and step metrics against slow NumPy, for one head, several heads and multi-label."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vivit_jax.config.schema import Task, head_slices
from vivit_jax.model.values import normalize_pixels
from vivit_jax.train import losses
from vivit_jax.train.losses import targets

ONE = Task(heads=('label',), classes=(5,))
TWO = Task(heads=('verb', 'noun'), classes=(3, 4), joint='action')
MULTI = Task(kind='multi_label', heads=('tag',), classes=(4,))


def slow_softmax_loss(logits, probabilities, smoothing):
  """Returns the mean cross-entropy of one head, one example and one class at a time."""
  total = 0.0
  for row, wanted in zip(logits.astype(np.float64), probabilities, strict=True):
    denominator = math.fsum(math.exp(x) for x in row)
    for x, p in zip(row, wanted, strict=True):
      smooth = (1 - smoothing) * p + smoothing / len(row)
      total -= smooth * (x - math.log(denominator))
  return total / len(logits)


def slow_sigmoid_loss(logits, probabilities, smoothing):
  total = 0.0
  for row, wanted in zip(logits.astype(np.float64), probabilities, strict=True):
    for x, p in zip(row, wanted, strict=True):
      smooth = (1 - smoothing) * p + smoothing / 2
      on = 1 / (1 + math.exp(-x))
      total -= smooth * math.log(on) + (1 - smooth) * math.log(1 - on)
  return total / len(logits)


def as_array(x):
  return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 1.0])
def test_one_head(rng, smoothing):
  logits, labels = rng.normal(size=(6, 5)) * 3, rng.integers(5, size=6)
  found = losses.loss(ONE, as_array(logits), as_array(np.eye(5)[labels]), smoothing)
  expected = slow_softmax_loss(logits, np.eye(5)[labels], smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_several_heads_average(rng, smoothing):
  logits = rng.normal(size=(6, 7)) * 3
  soft = np.concatenate([rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(4), 6)], axis=1)
  found = losses.loss(TWO, as_array(logits), as_array(soft), smoothing)
  heads = [
    slow_softmax_loss(logits[:, part], soft[:, part], smoothing)
    for part in (slice(0, 3), slice(3, 7))
  ]
  expected = (heads[0] + heads[1]) / 2
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_multi_label(rng, smoothing):
  logits, labels = rng.normal(size=(6, 4)) * 3, rng.integers(2, size=(6, 4))
  found = losses.loss(MULTI, as_array(logits), as_array(labels), smoothing)
  np.testing.assert_allclose(found, slow_sigmoid_loss(logits, labels, smoothing), rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_class_weights_multiply_each_class_s_term(rng, smoothing):
  weights = np.array([0.0, 1.0, 4.0, 0.5, 2.0, 1.0, 3.0])
  logits = rng.normal(size=(6, 7)) * 3
  soft = np.concatenate([rng.dirichlet(np.ones(3), 6), rng.dirichlet(np.ones(4), 6)], axis=1)
  found = losses.loss(TWO, as_array(logits), as_array(soft), smoothing, as_array(weights))
  heads = []
  for part in (slice(0, 3), slice(3, 7)):
    shares = np.exp(logits[:, part]) / np.exp(logits[:, part]).sum(axis=1, keepdims=True)
    smooth = (1 - smoothing) * soft[:, part] + smoothing / shares.shape[1]
    heads.append(-(weights[part] * smooth * np.log(shares)).sum() / 6)  # as PyTorch does it
  np.testing.assert_allclose(found, sum(heads) / 2, rtol=1e-5)


def test_class_weights_of_tags(rng):
  weights, logits = np.array([0.0, 1.0, 4.0, 0.5]), rng.normal(size=(6, 4)) * 3
  labels = rng.integers(2, size=(6, 4))
  found = losses.loss(MULTI, as_array(logits), as_array(labels), 0.0, as_array(weights))
  columns = [
    weights[c] * slow_sigmoid_loss(logits[:, c : c + 1], labels[:, c : c + 1], 0.0)
    for c in range(4)
  ]
  np.testing.assert_allclose(found, sum(columns), rtol=1e-5)


def test_uniform_logits_lose_the_log_of_the_class_count():
  for label in range(5):
    found = losses.loss(ONE, jnp.zeros((1, 5)), jax.nn.one_hot(jnp.array([label]), 5))
    assert float(found) == pytest.approx(math.log(5), rel=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.array([[1e4, -1e4, 0.0, 0.0, 0.0]])
  wrong = jnp.array([[0.0, 1.0, 0.0, 0.0, 0.0]])
  assert float(losses.loss(ONE, logits, wrong)) == pytest.approx(2e4)
  assert float(losses.loss(MULTI, logits[:, :4], wrong[:, :4])) == pytest.approx(2e4, rel=1e-3)


def test_head_slices_cover_the_class_axis_in_order():
  assert head_slices(TWO) == {'verb': slice(0, 3), 'noun': slice(3, 7)}
  assert head_slices(ONE) == {'label': slice(0, 5)}


def test_targets_of_class_ids_are_one_hot_per_head():
  found = targets(TWO, jnp.array([[2, 0], [0, 3]]))
  np.testing.assert_array_equal(found, [[0, 0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1]])


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.float32])
def test_targets_of_multi_hot_rows_are_the_rows(dtype):
  rows = jnp.array([[0, 1, 1, 0]], dtype)
  found = targets(MULTI, rows)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, rows)


def test_accuracy_of_one_head():
  logits = jnp.array([[0.0, 2.0, 1.0, 0.0, 0.0], [3.0, 2.0, 1.0, 0.0, 0.0]])
  found = losses.accuracy(ONE, logits, jax.nn.one_hot(jnp.array([1, 2]), 5))
  assert {name: float(value) for name, value in found.items()} == {'top1': 0.5}


def test_accuracy_of_several_heads_needs_all_of_them_right():
  predicted = targets(TWO, jnp.array([[0, 0], [1, 1], [2, 2], [0, 3]]))
  wanted = targets(TWO, jnp.array([[0, 0], [1, 2], [0, 2], [1, 0]]))
  found = losses.accuracy(TWO, predicted, wanted)
  assert {name: float(value) for name, value in found.items()} == {
    'top1': 0.25,
    'top1_verb': 0.5,
    'top1_noun': 0.5,
  }


def test_accuracy_of_multi_label_counts_classes():
  logits = jnp.array([[1.0, -1.0, 1.0, -1.0]])
  found = losses.accuracy(MULTI, logits, jnp.array([[1.0, 0.0, 0.0, 0.0]]))
  assert {name: float(value) for name, value in found.items()} == {'accuracy': 0.75}


def test_pixels_span_minus_one_to_one():
  video = jnp.array([0, 255, 51], jnp.uint8).reshape(1, 1, 1, 1, 3)
  np.testing.assert_allclose(normalize_pixels(video).ravel(), [-1.0, 1.0, -0.6], atol=1e-7)
