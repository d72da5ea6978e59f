# SPDX-License-Identifier: Apache-2.0
"""Parameters and multiply-adds of full-size models are the paper's; nothing is allocated."""

import dataclasses
import functools
import math

import pytest

from vivit_jax.config.schema import SIZES, Clip, Masked, Model
from vivit_jax.model.cost import model_cost
from vivit_jax.model.vivit import ViViT

CLASSES = 400


def settings(size, attention, temporal_layers=4, patch=(2, 16, 16)):
  """Returns a full-size model, with the pooling that the paper uses for it."""
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  return Model(
    attention=attention,
    pooling=pooling,
    temporal_layers=temporal_layers,
    patch=patch,
    **dataclasses.asdict(SIZES[size]),
  )


@functools.cache
def cost(size, attention, temporal_layers=4, frames=32, pixels=224, patch=(2, 16, 16)):
  model = ViViT(settings(size, attention, temporal_layers, patch), CLASSES)
  return model_cost(model, Clip(frames=frames, height=pixels, width=pixels))


@pytest.mark.parametrize(
  'attention, parameters, gflops',
  [
    ('spatio_temporal', 88_954_000, 455.2),
    ('factorised_encoder', 115_062_928, 284.4),
    ('factorised_self_attention', 117_319_312, 372.3),
    ('factorised_dot_product', 88_952_464, 277.1),
  ],
)
def test_base_models_of_table_2(attention, parameters, gflops):
  found = cost('B', attention)
  assert found.parameters == parameters
  assert found.gflops == pytest.approx(gflops, rel=5e-4)


@pytest.mark.parametrize(
  'temporal_layers, gflops, millions',
  [(0, 283.9, 86.7), (1, 284.0, 93.8), (4, 284.4, 115.1), (8, 284.9, 143.4), (12, 285.3, 171.8)],
)
def test_temporal_layers_of_table_3(temporal_layers, gflops, millions):
  found = cost('B', 'factorised_encoder', temporal_layers)
  assert found.gflops == pytest.approx(gflops, rel=5e-4)
  assert found.parameters / 1e6 == pytest.approx(millions, rel=5e-4)


@pytest.mark.parametrize('pixels, gflops', [(224, 1446), (288, 2919), (320, 3992)])
def test_resolutions_of_table_5(pixels, gflops):
  assert cost('L', 'spatio_temporal', pixels=pixels).gflops == pytest.approx(gflops, rel=5e-4)


@pytest.mark.parametrize('frames, gflops', [(32, 995.3), (128, 3980.4)])
def test_large_factorised_encoder_has_24_temporal_layers(frames, gflops):
  found = cost('L', 'factorised_encoder', temporal_layers=24, frames=frames)
  assert found.gflops == pytest.approx(gflops, rel=5e-4)


def test_tflops_of_table_6a():
  encoder = cost('L', 'factorised_encoder', temporal_layers=24, frames=128)
  assert encoder.gflops * 1 / 1e3 == pytest.approx(3.98, abs=0.005)
  assert encoder.gflops * 3 / 1e3 == pytest.approx(11.94, abs=0.005)
  teraflops = 12 * cost('H', 'spatio_temporal', patch=(2, 14, 14)).gflops / 1e3
  assert teraflops == pytest.approx(47.77, abs=0.005)


def transformer(config, layers, tokens, seen, attentions=1):
  """Returns multiply-adds of `layers` blocks on `tokens` tokens that each see `seen` tokens."""
  projections = 4 * tokens * config.width**2
  products = 2 * tokens * seen * config.width
  mlp = 2 * tokens * config.width * config.mlp_dim
  return layers * (attentions * projections + products + mlp)


def matrix_products(config):
  """Returns the multiply-adds in closed form at 32x224x224, 400 classes."""
  t, h, w = config.patch
  times, places, width = 32 // t, (224 // h) * (224 // w), config.width
  cls = int(config.pooling == 'cls')
  tokens = times * places
  edges = tokens * t * h * w * 3 * width + width * CLASSES
  match config.attention:
    case 'spatio_temporal':
      inner = transformer(config, config.layers, tokens + cls, tokens + cls)
    case 'factorised_encoder':
      inner = times * transformer(config, config.layers, places + cls, places + cls)
      inner += transformer(config, config.temporal_layers, times + cls, times + cls)
    case 'factorised_self_attention':
      inner = transformer(config, config.layers, tokens, places + times, attentions=2)
    case 'factorised_dot_product':  # each half of the heads has half of the width
      inner = transformer(config, config.layers, tokens, (places + times) / 2)
  return edges + inner


@pytest.mark.parametrize(
  'attention',
  [
    'spatio_temporal',
    'factorised_encoder',
    'factorised_self_attention',
    'factorised_dot_product',
  ],
)
def test_matrix_products_in_closed_form(attention):
  expected = matrix_products(settings('B', attention)) / 1e9
  assert cost('B', attention).matmul_gflops == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('attention', ['factorised_encoder', 'factorised_self_attention'])
def test_parts_sum_to_the_whole(attention):
  found = cost('B', attention)
  assert sum(part['parameters'] for part in found.parts.values()) == found.parameters
  assert math.fsum(part['matmul_gflops'] for part in found.parts.values()) == (
    pytest.approx(found.matmul_gflops, rel=1e-12)
  )
  stages = {name.split('/')[0] for name in found.parts}
  inner = {'spacetime'} if attention == 'factorised_self_attention' else {'spatial', 'temporal'}
  assert stages == {'tokenizer', 'head'} | inner
  assert found.parts['tokenizer']['parameters'] == 2 * 16 * 16 * 3 * 768 + 768
  assert found.parts['head']['parameters'] == 768 * CLASSES + CLASSES


@pytest.mark.parametrize(
  'changes', [{'scan': True}, {'scan': True, 'remat': 'block'}, {'dtype': 'bfloat16'}]
)
def test_cost_does_not_depend_on_how_the_model_runs(changes):
  config = Model(layers=3, width=16, mlp_dim=32, heads=4)
  clip = Clip(frames=4, height=32, width=48)
  changed = dataclasses.replace(config, **changes)
  assert model_cost(ViViT(changed, 5), clip) == model_cost(ViViT(config, 5), clip)


def test_masked_pretraining_costs_what_videomae_does():
  """ViT-B/16x2, 16 frames of 224, 90 % hidden: encoder blocks 14.1 G, decoder blocks 18.7 G."""
  model = dataclasses.replace(settings('B', 'spatio_temporal'), pooling='none')
  parts = model_cost(ViViT(model, 0, Masked()), Clip(frames=16)).parts
  blocks = {
    stage: sum(parts[f'{stage}/{part}']['matmul_gflops'] for part in ('attention', 'mlp'))
    for stage in ('spacetime', 'decoder')
  }
  assert blocks['spacetime'] == pytest.approx(14.1, abs=0.05)
  assert blocks['decoder'] == pytest.approx(18.7, abs=0.05)
