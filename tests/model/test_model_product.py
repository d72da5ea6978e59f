# SPDX-License-Identifier: Apache-2.0
"""Gradients of matrices are summed over devices in the type that the setting names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vivit_jax.config.schema import Clip, Model
from vivit_jax.model.product import product
from vivit_jax.model.vivit import ViViT, abstract_params


def gradients(x, matrix, weight, gradient):
  def loss(x, matrix):
    return (product(x, matrix, gradient).astype(jnp.float32) * weight).sum()

  return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, matrix)


@pytest.mark.parametrize('lead', [(5,), (2, 5), (2, 3, 5)])
def test_in_single_precision_it_is_the_plain_product(lead, rng):
  x, matrix, weight = (
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((*lead, 8), (8, 6), (*lead, 6))
  )
  for gradient in ('float32', 'bfloat16'):
    value, (dx, dmatrix) = gradients(x, matrix, weight, gradient)
    np.testing.assert_allclose(value, (x @ matrix * weight).sum(), rtol=1e-5)
    np.testing.assert_allclose(dx, weight @ matrix.T, rtol=1e-5, atol=1e-5)
    expected = np.einsum('ri,ro->io', x.reshape(-1, 8), weight.reshape(-1, 6))
    np.testing.assert_allclose(dmatrix, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('gradient', ['float32', 'bfloat16'])
def test_a_gradient_is_not_rounded_before_it_is_summed(gradient):
  x = jnp.ones((257, 1), jnp.bfloat16)
  weight = jnp.concatenate([jnp.ones((256, 1)), jnp.full((1, 1), 0.5)])
  program = jax.make_jaxpr(lambda m: gradients(x, m, weight, gradient))(jnp.ones((1, 1), x.dtype))
  wide = str(program).count('preferred_element_type=float32')
  assert wide == (1 if gradient == 'float32' else 0)


def test_in_half_precision_only_the_result_is_rounded(rng):
  x, matrix, weight = (
    jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((300, 8), (8, 6), (300, 6))
  )
  exact = np.einsum('ri,ro->io', *(np.asarray(y, np.float64) for y in (x, weight)))
  found = gradients(x, matrix, weight, 'float32')[1][1]
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2.0**-8, atol=1e-4)


@pytest.mark.parametrize('scan', [False, True], ids=['loop', 'scan'])
def test_a_model_in_half_precision_has_the_same_loss_with_either(scan, rng, random_params):
  config = Model(
    layers=2, width=16, mlp_dim=32, heads=2, patch=(2, 4, 4), dtype='bfloat16', scan=scan,
    remat='dots',
  )  # fmt: skip
  clip = Clip(frames=4, height=8, width=8)
  params = random_params(abstract_params(ViViT(config, 5), clip))
  video = jnp.asarray(rng.uniform(-1, 1, (2, 4, 8, 8, 3)), jnp.float32)

  def both(gradient):
    model = ViViT(dataclasses.replace(config, gradient_dtype=gradient), 5)
    return jax.jit(
      jax.value_and_grad(lambda p: (model.apply({'params': p}, video) * jnp.arange(5.0)).sum())
    )(params)

  (loss, wide), (same, half) = both('float32'), both('bfloat16')
  assert loss == same
  for one, two in zip(jax.tree.leaves(wide), jax.tree.leaves(half), strict=True):
    assert one.dtype == two.dtype == jnp.float32
    np.testing.assert_allclose(one, two, rtol=0.05, atol=0.02 * float(jnp.abs(two).max()))
