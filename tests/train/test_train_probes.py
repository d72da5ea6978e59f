# SPDX-License-Identifier: Apache-2.0
"""Heads trained together are those trained alone, for little more than the cost of one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from support.encoders import FAMILIES
from support.steps import CONFIG, make_batch
from vivit_jax.config.schema import Clip, Model
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import ViViT, abstract_params, apply, build
from vivit_jax.train import probes
from vivit_jax.weights.recipes import read_encoder


@pytest.mark.parametrize('family', ['videoprism', 'timesformer'])
def test_heads_together_are_those_alone(family, rng, random_params):
  sizes = {'layers': 1, 'temporal_layers': 1, 'width': 16, 'mlp_dim': 32, 'patch': (2, 8, 8)}
  model = Model(**{'heads': 2, **FAMILIES[family], **sizes})
  config = dataclasses.replace(CONFIG, model=model)
  built, batch = build(config), make_batch(config, rng)
  params = random_params(abstract_params(built, config.clip))
  frozen, head = probes.split(params)
  settings = probes.grid((1e-2, 1e-3), (0.0, 0.5))

  def trained(settings):
    state = probes.start(head, len(settings))
    step = probes.compiled(config, built, settings, 10)
    for _ in range(3):
      state, metrics = step(state, frozen, batch)
    return state.params, metrics

  together, metrics = trained(settings)
  assert metrics['loss'].shape == (4,)
  for k in (0, 3):
    alone, _ = trained(settings[k : k + 1])
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
      np.testing.assert_allclose(many[k], one[0], rtol=1e-4, atol=1e-6)
  kernels = together['head']['kernel']
  assert len({float(np.abs(kernel).sum()) for kernel in kernels}) == 4
  # One of them, put back, makes the model.
  own = jax.tree.map(lambda leaf: leaf[1], together)
  video = normalize_pixels(jnp.asarray(batch['video']), config.clip.mean, config.clip.std)
  expected = jax.jit(functools.partial(apply, built))(frozen | own, video)
  several = probes.forward(config, built)(together, frozen, batch['video'])
  np.testing.assert_allclose(several[1], expected, rtol=1e-5, atol=1e-5)


def test_twenty_heads_cost_less_than_one_and_a_half():
  settings, _ = read_encoder('videoprism', 'B', ['B'])
  model = Model(**{**settings.model.to_dict(), 'layers': 4, 'temporal_layers': 1})
  config = dataclasses.replace(CONFIG, model=model, clip=Clip(8, height=144, width=144))
  built = ViViT(model, 4)
  shapes = abstract_params(built, config.clip)
  batch = {
    'video': jax.ShapeDtypeStruct((2, 8, 144, 144, 3), np.uint8),
    'label': jax.ShapeDtypeStruct((2, 1), np.int32),
  }

  def operations(settings):
    def step(params, batch):
      frozen, head = probes.split(params)
      state = probes.start(head, len(settings))
      return probes.probe_step(
        state, frozen, batch, config=config, model=built, settings=settings,
        schedule=optax.constant_schedule(1.0),
      )  # fmt: skip

    return jax.jit(step).lower(shapes, batch).cost_analysis()['flops']

  one, twenty = operations(probes.grid((1e-3,), (0.1,))), operations(probes.grid())
  print(f'20 heads: {twenty / one:.2f} times the operations of one')
  assert twenty < 1.5 * one
