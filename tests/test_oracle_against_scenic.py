# SPDX-License-Identifier: Apache-2.0
"""The NumPy oracle computes the logits that Scenic's ViViT computed, for all of its variants."""

import json
from pathlib import Path

import numpy as np
import oracle
import pytest
from flax import serialization
from scenic_names import our_params, our_settings

REFERENCE = Path(__file__).parent / 'reference' / 'scenic'
CASES = (
  'factorised_dot_product',
  'factorised_encoder_average_pool_baseline',
  'factorised_encoder_cls',
  'factorised_encoder_gap',
  'factorised_encoder_uniform',
  'factorised_self_attention_space_time',
  'factorised_self_attention_time_space',
  'spatio_temporal_cls',
  'spatio_temporal_gap',
  'spatio_temporal_uniform',
)


def read_case(name):
  """Our parameters, our settings, and the arrays of one reference case."""
  checkpoint = serialization.msgpack_restore((REFERENCE / f'{name}.msgpack').read_bytes())
  config = json.loads((REFERENCE / f'{name}.json').read_text())
  with np.load(REFERENCE / f'{name}.npz') as arrays:
    return our_params(checkpoint['optimizer']['target']), our_settings(config), dict(arrays)


def test_cases_are_all_of_the_reference_files():
  assert {path.stem for path in REFERENCE.iterdir()} == set(CASES)


@pytest.mark.parametrize('name', CASES)
def test_logits_agree_with_scenic(name):
  params, settings, arrays = read_case(name)
  logits = oracle.forward(params, arrays['video'], **settings)
  assert logits.dtype == np.float64
  assert logits.shape == arrays['logits'].shape
  difference = np.max(np.abs(logits - arrays['logits']))
  print(f'{name}: largest difference {difference:.2e}')
  assert difference < 1e-5


@pytest.mark.parametrize(
  'frames, sampled, expected',
  [
    (8, 4, [2, 3, 5, 6]),
    (15, 5, [2, 5, 8, 10, 12]),  # 2.5, 5, 7.5, 10, 12.5: halves go to the even neighbour
    (32, 1, [16]),
    (4, 4, [0, 1, 2, 3]),
  ],
)
def test_uniform_frames(frames, sampled, expected):
  assert oracle.uniform_frames(frames, sampled) == expected
