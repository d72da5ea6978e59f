# SPDX-License-Identifier: Apache-2.0
"""Every way to compute attention gives the same values and gradients, and its memory is bounded."""

import dataclasses
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vivit_jax.config.parse import check_model
from vivit_jax.config.schema import Clip, Config, Model
from vivit_jax.errors import ConfigError
from vivit_jax.model.choices import note, noting
from vivit_jax.model.kernels import (
  CAPPED,
  LONG,
  attend,
  blockwise,
  check_kernel,
  choose,
  filled,
  plain,
)
from vivit_jax.model.partitioning import device_kind
from vivit_jax.model.short import fits
from vivit_jax.model.splash import block_size
from vivit_jax.model.vivit import ViViT, abstract_params


def tensors(rng, *shape, dtype=jnp.float32):
  return [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(3)]


def mesh(kind, **axes):
  device = jax.sharding.AbstractDevice(kind, None, platform='any')
  sizes = {'data': 1, 'fsdp': 1, 'context': 1} | axes
  return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), abstract_device=device)


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


@pytest.mark.parametrize('kernel', [k for k in CAPPED if k != 'plain'])
def test_kernels_that_cap_logits_have_the_gradients_of_plain(kernel, rng):
  query, key, value = (10 * x for x in tensors(rng, 2, 37, 2, 8))

  def gradients(kernel, cap):
    loss = lambda *a: (attend(kernel, *a, cap=cap) * query).sum()  # noqa: E731
    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(query, key, value))

  found, expected = gradients(kernel, 5.0), gradients('plain', 5.0)
  for one, two in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4)
  assert np.abs(gradients('plain', None)[1] - expected[1]).max() > 1e-1


def test_auto_never_takes_a_kernel_that_cannot_cap_logits(rng):
  shape = jax.ShapeDtypeStruct((8, 512, 2, 64), jnp.bfloat16)
  for device in ('TPU v5 lite', 'NVIDIA H100 80GB HBM3'):
    with jax.sharding.use_abstract_mesh(mesh(device)):
      assert choose(shape, 512, None) not in CAPPED
      assert choose(shape, 512, None, cap=50.0) == 'plain'
      assert filled('auto', shape, False, cap=50.0) == 512
  with pytest.raises(ConfigError, match="'short' cannot cap logits"):
    attend('short', *tensors(rng, 8, 2, 8), cap=50.0)


@pytest.mark.parametrize('devices', [1, 8])
def test_splash_has_the_values_and_gradients_of_plain(devices, rng):
  arrays = tensors(rng, 4, 133, 2, 8)  # neither the kernel nor the mesh divides 133
  weight = jnp.asarray(rng.normal(size=arrays[0].shape), jnp.float32)
  grid = np.array(jax.devices()[:devices]).reshape(2, 2, 2) if devices == 8 else None
  real = jax.sharding.Mesh(grid, ('data', 'fsdp', 'context')) if devices == 8 else None

  def gradients(kernel, mesh):
    def loss(*arrays):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh else nullcontext():
        return (attend(kernel, *arrays) * weight).sum()

    place = NamedSharding(mesh, PartitionSpec(('data', 'fsdp'))) if mesh else None
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)), in_shardings=place)(*arrays)

  found, expected = gradients('splash', real), gradients('plain', None)
  for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


def test_splash_leaves_out_the_keys_behind_the_last_token(rng):
  arrays = tensors(rng, 2, 128, 2, 8)
  weight = jnp.asarray(rng.normal(size=(2, 101, 2, 8)), jnp.float32)

  def gradients(kernel):
    def loss(*arrays):
      return (attend(kernel, *arrays, tokens=101)[:, :101] * weight).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)

  for one, two in zip(*map(jax.tree.leaves, map(gradients, ('splash', 'plain'))), strict=True):
    np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('tokens', [13, 16])
@pytest.mark.parametrize('lead', [(4,), (2, 2)])
def test_short_has_the_values_and_gradients_of_plain(tokens, lead, rng):
  arrays = tensors(rng, *lead, 16, 2, 8)
  weight = jnp.asarray(rng.normal(size=(*lead, tokens, 2, 8)), jnp.float32)

  def gradients(kernel):
    def loss(*arrays):
      return (attend(kernel, *arrays, tokens=tokens)[..., :tokens, :, :] * weight).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)

  found, expected = gradients('short'), gradients('plain')
  for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
  ('kernel', 'attention', 'epsilon'),
  [
    ('short', 'factorised_encoder', 1e-6),
    ('short', 'factorised_self_attention', 1e-6),
    ('short', 'factorised_encoder', 0.0),
    ('short', 'factorised_self_attention', 0.0),
    ('splash', 'spatio_temporal', 0.0),
  ],
)
def test_tokens_that_fill_a_stage_change_no_loss_or_gradient(
  kernel, attention, epsilon, rng, random_params
):
  pooling = 'mean' if attention == 'factorised_self_attention' else 'cls'
  config = Model(
    attention=attention, pooling=pooling, layers=2, temporal_layers=1, width=16, mlp_dim=32,
    heads=2, patch=(2, 4, 4), norm_epsilon=epsilon, attention_kernel='plain',
  )  # fmt: skip
  clip = Clip(frames=4, height=12, width=16)  # 12 tokens of a frame, and cls
  plain_model = ViViT(config, 5)
  params = random_params(abstract_params(plain_model, clip))
  video = jnp.asarray(rng.uniform(-1, 1, (2, 4, 12, 16, 3)), jnp.float32)

  def gradients(kernel):
    model = plain_model.clone(config=dataclasses.replace(config, attention_kernel=kernel))

    def loss(params):
      return (model.apply({'params': params}, video) * jnp.arange(5.0)).sum()

    return jax.jit(jax.value_and_grad(loss))(params)

  (loss, found), (expected_loss, expected) = gradients(kernel), gradients('plain')
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
  for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * largest)


def test_short_is_for_sequences_that_fit_the_vector_memory():
  assert fits(200, 12, 64, 2)
  assert fits(264, 16, 80, 2)
  assert not fits(1024, 12, 64, 2)
  assert filled('short', jax.ShapeDtypeStruct((8, 197, 12, 64), jnp.bfloat16), False) == 200
  assert filled('splash', jax.ShapeDtypeStruct((8, 3137, 12, 64), jnp.bfloat16), False) == 3200
  assert filled('plain', jax.ShapeDtypeStruct((8, 197, 12, 64), jnp.bfloat16), False) == 197


@pytest.mark.parametrize(
  ('device', 'settings', 'reason'),
  [
    ('cpu', {'attention_kernel': 'cudnn', 'dtype': 'bfloat16'}, 'needs an NVIDIA GPU, not cpu'),
    ('NVIDIA H100', {'attention_kernel': 'cudnn'}, r"needs config\.model\.dtype='bfloat16'"),
    (
      'NVIDIA H100',
      {'attention_kernel': 'cudnn', 'dtype': 'bfloat16', 'heads': 4},
      'multiple of 8 up to 128, not 192',
    ),
    (
      'Tesla V100-SXM2-32GB',
      {'attention_kernel': 'cudnn', 'dtype': 'bfloat16'},
      'needs an NVIDIA GPU of the Ampere generation or later, not Tesla V100-SXM2-32GB',
    ),
    ('NVIDIA H100', {'attention_kernel': 'splash'}, 'needs a TPU, not NVIDIA H100'),
    ('NVIDIA H100', {'attention_kernel': 'short'}, "use 'auto'"),
    ('TPU v4', {'attention_kernel': 'short', 'logit_cap': 50.0}, "'short' cannot cap logits"),
    ('NVIDIA H100', {'attention_kernel': 'cudnn', 'logit_cap': 50.0}, 'cudnn. cannot cap logits'),
  ],
)
def test_a_kernel_by_name_that_cannot_run_is_refused(device, settings, reason):
  with pytest.raises(ConfigError, match=reason):
    check_kernel(Model(**settings), device)
  check_kernel(Model(dtype='bfloat16'), device)


@pytest.mark.parametrize(
  ('axes', 'tokens', 'dtype', 'reason'),
  [
    ({}, 197, 'float32', None),
    ({}, 1568, 'bfloat16', '1,568 tokens of 12 heads of 64 in bfloat16 exceed: use .auto.'),
    ({'context': 2}, 64, 'bfloat16', 'whole sequences, which config.mesh.context splits: use'),
  ],
)
def test_short_by_name_refuses_sequences_that_it_cannot_take(axes, tokens, dtype, reason):
  shape = jax.ShapeDtypeStruct((8, tokens, 12, 64), dtype)
  refused = pytest.raises(ConfigError, match=reason) if reason else nullcontext()
  with jax.sharding.use_abstract_mesh(mesh('TPU v5 lite', **axes)), refused:
    jax.eval_shape(lambda x: attend('short', x, x, x), shape)


def test_splash_fills_up_little():
  for tokens in (197, 1025, 3137, 4097, 6273, 12_545, 25_089):
    block = block_size(tokens)
    assert block % 128 == 0
    assert -tokens % block < 0.25 * tokens + 128
  assert block_size(3137) == 640, '5 blocks: 3,200 tokens'


@pytest.mark.parametrize(
  ('device', 'tokens', 'dtype', 'width', 'expected'),
  [
    ('TPU v5 lite', 197, jnp.float32, 64, 'short'),
    ('TPU v5 lite', 64, jnp.bfloat16, 64, 'plain'),
    ('TPU v5 lite', 3137, jnp.float32, 64, 'splash'),
    ('TPU v5 lite', 3137, jnp.bfloat16, 80, 'splash'),
    ('NVIDIA H100 80GB HBM3', 3137, jnp.bfloat16, 64, 'cudnn'),
    ('NVIDIA H100 80GB HBM3', 3137, jnp.float32, 64, 'blockwise'),
    ('NVIDIA H100 80GB HBM3', 3137, jnp.bfloat16, 100, 'blockwise'),
    ('NVIDIA H100 80GB HBM3', 197, jnp.bfloat16, 64, 'cudnn'),
    ('NVIDIA H100 80GB HBM3', 64, jnp.bfloat16, 64, 'plain'),
    ('NVIDIA GeForce RTX 3090', 197, jnp.bfloat16, 64, 'cudnn'),
    ('NVIDIA RTX A6000', 197, jnp.bfloat16, 64, 'cudnn'),
    ('NVIDIA GeForce RTX 2080 Ti', 197, jnp.bfloat16, 64, 'plain'),
    ('Quadro RTX 6000', 3137, jnp.bfloat16, 64, 'blockwise'),
    ('NVIDIA T4', 197, jnp.bfloat16, 64, 'plain'),
    ('AMD Instinct MI300X', 3137, jnp.bfloat16, 64, 'blockwise'),
    ('cpu', 3137, jnp.bfloat16, 64, 'blockwise'),
  ],
)
def test_auto_goes_by_the_device_that_is_compiled_for(device, tokens, dtype, width, expected):
  shape = jax.ShapeDtypeStruct((8, tokens, 2, width), dtype)
  with jax.sharding.use_abstract_mesh(mesh(device, data=8)):
    assert choose(shape, tokens, None) == expected
    assert choose(shape, tokens, lambda x: x) == 'plain', 'dropout needs the weights'
  with jax.sharding.use_abstract_mesh(mesh(device, data=16)):
    assert choose(shape, tokens, None) == {'splash': 'blockwise', 'short': 'plain'}.get(
      expected, expected
    )


@pytest.mark.parametrize(
  ('device', 'tokens', 'dtype', 'drops', 'line'),
  [
    (
      'NVIDIA H100 80GB HBM3', 197, jnp.bfloat16, False,
      "attention of 197 tokens by the kernel 'cudnn': NVIDIA H100 80GB HBM3 in bfloat16",
    ),
    (
      'NVIDIA H100 80GB HBM3', 3137, jnp.float32, False,
      "attention of 3,137 tokens by the kernel 'blockwise': many tokens; cudnn needs "
      "config.model.dtype='bfloat16', not 'float32'",
    ),
    (
      'NVIDIA H100 80GB HBM3', 197, jnp.bfloat16, True,
      "attention of 197 tokens by the kernel 'plain': config.model.attention_dropout needs the "
      'weights',
    ),
    (
      'Tesla T4', 197, jnp.bfloat16, False,
      "attention of 197 tokens by the kernel 'plain': few tokens; cudnn needs an NVIDIA GPU of the "
      'Ampere generation or later, not Tesla T4',
    ),
  ],
)  # fmt: skip
def test_auto_says_once_what_it_chose_and_why(device, tokens, dtype, drops, line):
  shape = jax.ShapeDtypeStruct((8, tokens, 2, 64), dtype)
  drop = (lambda x: x) if drops else None
  with jax.sharding.use_abstract_mesh(mesh(device, data=8)), noting() as lines:
    for _ in range(2):  # layers
      note(choose(shape, tokens, drop), device_kind(), shape, tokens, drops)
  assert list(lines) == [line]
