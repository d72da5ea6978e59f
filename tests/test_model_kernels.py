# SPDX-License-Identifier: Apache-2.0
"""Every way to compute attention gives the same values and gradients, and its memory is bounded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vivit_jax.config import Clip, Config, Model
from vivit_jax.config_parse import check_model
from vivit_jax.errors import ConfigError
from vivit_jax.model.kernels import LONG, attend, blockwise, plain
from vivit_jax.model.vivit import ViViT, abstract_params


def tensors(rng, *shape, dtype=jnp.float32):
  return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(3)]


@pytest.mark.parametrize('tokens', [1, 63, 64, 65, 197])
@pytest.mark.parametrize('lead', [(), (2,), (2, 3)])
def test_blockwise_has_the_values_and_gradients_of_plain(tokens, lead, rng):
  query, key, value = tensors(rng, *lead, tokens, 2, 8)
  weight = jnp.asarray(rng.normal(size=query.shape), jnp.float32)
  blocks = lambda *args: blockwise(*args, rows=64)  # noqa: E731

  def gradients(kernel):
    return jax.jit(jax.value_and_grad(lambda *a: (kernel(*a) * weight).sum(), (0, 1, 2)))(
      query, key, value
    )

  np.testing.assert_allclose(blocks(query, key, value), plain(query, key, value), atol=1e-6)
  for found, expected in zip(
    jax.tree.leaves(gradients(blocks)), jax.tree.leaves(gradients(plain)), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_blockwise_in_half_precision_is_as_exact_as_plain(rng):
  exact = tensors(rng, 130, 2, 16)
  half = [x.astype(jnp.bfloat16) for x in exact]
  assert blockwise(*half, rows=64).dtype == jnp.bfloat16
  error = lambda kernel: np.abs(kernel(*half).astype(jnp.float32) - plain(*exact)).max()  # noqa: E731
  assert error(lambda *a: blockwise(*a, rows=64)) <= 1.1 * error(plain)


def temporary_bytes(kernel, tokens):
  """Returns what value and gradient of one head need beside inputs and outputs."""
  shape = jax.ShapeDtypeStruct((1, tokens, 1, 64), jnp.float32)
  step = jax.grad(lambda *a: attend(kernel, *a).astype(jnp.float32).sum(), (0, 1, 2))
  return jax.jit(step).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_auto_does_not_materialise_the_matrix_of_long_sequences():
  tokens = 12_545  # 128 frames of 224 x 224 with tubelets of 2 x 16 x 16
  assert temporary_bytes('auto', tokens) < 0.2 * 4 * tokens**2
  assert temporary_bytes('blockwise', 2 * tokens) < 2.2 * temporary_bytes('blockwise', tokens)
  short = 197
  assert temporary_bytes('auto', short) == temporary_bytes('plain', short) >= 4 * short**2


def test_a_whole_model_is_the_same_with_either(rng, random_params):
  model = ViViT(
    Model(layers=2, width=16, mlp_dim=32, heads=2, patch=(1, 4, 4), attention_kernel='plain'), 5
  )
  clip = Clip(frames=4, height=16, width=16)
  params = random_params(abstract_params(model, clip))
  video = jnp.asarray(rng.uniform(-1, 1, (2, 4, 16, 16, 3)), jnp.float32)
  other = model.clone(config=dataclasses.replace(model.config, attention_kernel='blockwise'))
  assert LONG > 65
  one, two = (m.apply({'params': params}, video) for m in (model, other))
  np.testing.assert_allclose(one, two, atol=1e-5)


def test_dropout_of_weights_needs_them():
  model = Model(attention_dropout=0.1, attention_kernel='blockwise')
  with pytest.raises(
    ConfigError, match=r"attention_dropout=0\.1 needs the attention weights.*'plain'"
  ):
    check_model(model, Config().clip)
