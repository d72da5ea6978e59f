# SPDX-License-Identifier: Apache-2.0
"""Tubelet initialisers act on the time axis, and uniform sampling takes the frames of Scenic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support import oracle
from vivit_jax.config.schema import Model
from vivit_jax.model.tokenizer import Tokenizer, sampled_frame_indices, tubelet_initializer

KEY = jax.random.key(0)


def kernel(kind, shape):
  """Returns a fresh kernel [t, h, w, c, D]; every axis of another size, so that none is taken."""
  return np.asarray(tubelet_initializer(kind)(KEY, shape))


@pytest.mark.parametrize('time, centre', [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_central_frame_is_zero_except_at_the_middle_of_time(time, centre):
  found = kernel('central_frame', (time, 6, 7, 3, 8))
  assert (found[centre] != 0).all()
  assert (np.delete(found, centre, axis=0) == 0).all()


@pytest.mark.parametrize('time', [1, 2, 3])
def test_inflation_repeats_the_central_frame_and_keeps_its_sum(time):
  image = kernel('central_frame', (time, 6, 7, 3, 8)).sum(axis=0)
  found = kernel('inflation', (time, 6, 7, 3, 8))
  for frame in found:
    np.testing.assert_allclose(frame, image / time, rtol=1e-6)


def test_random_fills_every_frame_differently():
  found = kernel('random', (2, 6, 7, 3, 8))
  assert (found != 0).all()
  assert (found[0] != found[1]).all()


@pytest.mark.parametrize(
  'kind, inputs', [('central_frame', 12 * 12 * 3), ('random', 2 * 12 * 12 * 3)]
)
def test_spread_is_that_of_the_inputs_that_are_used(kind, inputs):
  found = kernel(kind, (2, 12, 12, 3, 64))
  assert found[found != 0].std() == pytest.approx(inputs**-0.5, rel=0.02)


def test_tokens_lie_on_time_and_then_row_by_row_in_space():
  # Each token becomes the mean of its tubelet, and each tubelet holds its own number.
  numbers = np.arange(2 * 2 * 3, dtype=np.float32).reshape(2, 2, 3)
  video = numbers.repeat(2, axis=0).repeat(4, axis=1).repeat(5, axis=2)
  video = jnp.asarray(np.broadcast_to(video[None, ..., None], (1, 4, 8, 15, 3)))
  config = Model(layers=1, width=2, mlp_dim=4, heads=1, patch=(2, 4, 5))
  params = {'kernel': jnp.full((2, 4, 5, 3, 2), 1 / 120), 'bias': jnp.array([0.0, 100.0])}
  tokens = Tokenizer(config).apply({'params': params}, video)
  assert tokens.shape == (1, 2, 6, 2)
  np.testing.assert_allclose(tokens[0, ..., 0], numbers.reshape(2, 6), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(tokens[0, ..., 1], numbers.reshape(2, 6) + 100, rtol=1e-5)


@pytest.mark.parametrize(
  'frames, sampled, expected',
  [
    (8, 4, [2, 3, 5, 6]),
    (15, 5, [2, 5, 8, 10, 12]),  # 2.5, 5, 7.5, 10, 12.5: halves go to the even neighbour
    (32, 1, [16]),
    (4, 4, [0, 1, 2, 3]),
  ],
)
def test_sampled_frame_indices(frames, sampled, expected):
  assert sampled_frame_indices(frames, sampled) == expected


def test_sampled_frames_exist_and_rise_for_every_length():
  for frames in range(1, 65):
    for sampled in range(1, frames + 1):
      found = sampled_frame_indices(frames, sampled)
      assert found == oracle.uniform_frames(frames, sampled)
      assert len(found) == sampled
      assert sorted(set(found)) == found
      assert found[0] >= 0
      assert found[-1] < frames


def test_uniform_sampling_sees_the_sampled_frames_alone(rng):
  config = Model(
    width=8, heads=1, patch=(1, 4, 4), tokenizer='uniform_frame_sampling', sampled_frames=2
  )
  params = {'kernel': jnp.asarray(rng.normal(size=(1, 4, 4, 3, 8)), jnp.float32)}
  params['bias'] = jnp.zeros(8)
  video = jnp.asarray(rng.normal(size=(1, 6, 8, 8, 3)), jnp.float32)

  def tokens(video):
    return Tokenizer(config).apply({'params': params}, video)

  assert tokens(video).shape == (1, 2, 4, 8)
  others = jnp.array([0, 1, 3, 5])  # 2 and 4 are sampled
  np.testing.assert_array_equal(tokens(video.at[:, others].add(1.0)), tokens(video))
  assert (tokens(video.at[:, 4].add(1.0))[:, 1] != tokens(video)[:, 1]).all()
