# SPDX-License-Identifier: Apache-2.0
"""Eight virtual CPU devices for every test, and random arrays and parameters to start from."""

import os
import signal

# Before the first import of JAX, which reads both once.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Many small programs: without LLVM's optimisation they compile in half the time.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',
    os.environ.get('XLA_FLAGS', ''),
  ]
).strip()

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Run by a script in the background, tests and the commands that they interrupt would be deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng():
  """A fresh NumPy generator, the same for every test."""
  return np.random.default_rng(0)


@pytest.fixture
def random_params(rng):
  """A function that fills a tree of shapes at random: no zeros and ones that would hide a part."""

  def fill(shapes, scale=0.2):
    def leaf(path, shape):
      centre = 1.0 if path[-1].key == 'scale' else 0.0
      return jnp.asarray(centre + scale * rng.normal(size=shape.shape), shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)

  return fill
