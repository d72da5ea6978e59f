# SPDX-License-Identifier: Apache-2.0
"""Scenic's models and outputs, as they lie in reference/scenic."""

import json
from pathlib import Path

import numpy as np
from flax import serialization

from support.scenic_names import our_params, our_settings

REFERENCE = Path(__file__).parent.parent / 'reference' / 'scenic'
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
