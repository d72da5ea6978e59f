# SPDX-License-Identifier: Apache-2.0
"""Eight virtual CPU devices for every test, and the arrays and trees that many tests start from."""

import os

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
import numpy as np
import pytest


@pytest.fixture
def rng():
  """A fresh NumPy generator, the same for every test."""
  return np.random.default_rng(0)


@pytest.fixture
def perturbed(rng):
  """A function that moves every leaf of a tree at random, so that zeros and ones show as well."""

  def perturb(tree, scale=0.1):
    leaves, structure = jax.tree.flatten(tree)
    moved = [leaf + scale * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, moved)

  return perturb
