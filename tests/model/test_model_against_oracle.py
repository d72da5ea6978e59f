# SPDX-License-Identifier: Apache-2.0
"""The model computes what the paper's equations say, on random parameters and non-square clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support import oracle
from vivit_jax.config.parse import check_model
from vivit_jax.config.schema import Clip, Model
from vivit_jax.model.vivit import ViViT, abstract_params

SELF, DOT = 'factorised_self_attention', 'factorised_dot_product'
UNIFORM = {'tokenizer': 'uniform_frame_sampling', 'patch': (1, 4, 6), 'sampled_frames': 3}


@pytest.mark.parametrize(
  'settings',
  [
    {'attention': 'spatio_temporal', 'pooling': 'cls'},
    {'attention': 'spatio_temporal', 'pooling': 'mean'},
    {'attention': 'spatio_temporal', 'pooling': 'cls', **UNIFORM},
    {'attention': 'factorised_encoder', 'pooling': 'cls'},
    {'attention': 'factorised_encoder', 'pooling': 'mean'},
    {'attention': 'factorised_encoder', 'pooling': 'mean', **UNIFORM},
    {'attention': 'factorised_encoder', 'pooling': 'cls', 'temporal_layers': 0},
    {'attention': 'factorised_encoder', 'pooling': 'mean', 'temporal_layers': 0},
    {'attention': SELF, 'pooling': 'mean', 'order': 'space_time'},
    {'attention': SELF, 'pooling': 'mean', 'order': 'time_space'},
    {'attention': SELF, 'pooling': 'mean', 'order': 'space_time', **UNIFORM},
    {'attention': DOT, 'pooling': 'mean'},
    {'attention': DOT, 'pooling': 'mean', **UNIFORM},
  ],
  ids=lambda settings: '-'.join(str(value) for value in settings.values()),
)
def test_logits_agree_with_the_equations(settings, random_params, rng):
  sizes = {'layers': 2, 'width': 24, 'mlp_dim': 40, 'heads': 4, 'temporal_layers': 2}
  config = Model(**{**sizes, 'patch': (2, 4, 6), **settings})
  clip = Clip(frames=6, height=8, width=12)
  check_model(config, clip)
  model = ViViT(config, classes=5)
  params = random_params(abstract_params(model, clip))
  video = rng.uniform(-1, 1, size=(2, 6, 8, 12, 3)).astype(np.float32)
  logits = jax.jit(model.apply)({'params': params}, jnp.asarray(video))
  names = ('attention', 'pooling', 'order', 'tokenizer', 'sampled_frames')
  expected = oracle.forward(params, video, **{name: getattr(config, name) for name in names})
  assert expected.std() > 0.1
  difference = np.max(np.abs(logits - expected))
  print(f'largest difference {difference:.2e}')
  assert difference <= 2e-6
