# SPDX-License-Identifier: Apache-2.0
"""The model computes what Scenic's ViViT computed: logits, loss and gradients of ten cases."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from support.reference import CASES, REFERENCE, read_case
from vivit_jax.config.schema import Clip, Model
from vivit_jax.model.vivit import ViViT, abstract_params


def scenic_model(name, params, settings, **run):
  """Returns the model of a case, its sizes as in Scenic's config."""
  scenic = json.loads((REFERENCE / f'{name}.json').read_text())['model']
  height, width, *time = scenic['patches']['size']
  uniform = settings['tokenizer'] == 'uniform_frame_sampling'
  config = Model(
    **settings,
    layers=scenic['num_layers'],
    width=scenic['hidden_size'],
    mlp_dim=scenic['mlp_dim'],
    heads=scenic['num_heads'],
    patch=(1 if uniform else time[0], height, width),
    temporal_layers=sum(key.startswith('block_') for key in params.get('temporal', {})),
    **run,
  )
  return ViViT(config, params['head']['bias'].shape[0])


LOOP, SCAN = {}, {'scan': True, 'remat': 'block'}
ONE_OF_EACH = (
  'spatio_temporal_cls',
  'factorised_encoder_cls',
  'factorised_self_attention_time_space',
  'factorised_dot_product',
)


@pytest.mark.parametrize(
  'name, run', [(name, LOOP) for name in CASES] + [(name, SCAN) for name in ONE_OF_EACH]
)
def test_logits_loss_and_gradients_agree_with_scenic(name, run):
  params, settings, case = read_case(name)
  model = scenic_model(name, params, settings, **run)
  _, frames, height, width, _ = case['video'].shape
  expected = abstract_params(model, Clip(frames=frames, height=height, width=width))
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)

  video = jnp.asarray(case['video'])

  def loss(params):
    logits = model.apply({'params': params}, video)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, case['labels'])
    return losses.mean(), logits

  (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  difference = np.max(np.abs(logits - case['logits']))
  print(f'{name}: largest difference of the logits {difference:.2e}')
  assert difference <= 1e-5
  np.testing.assert_allclose(value, case['loss'], rtol=1e-4)
  norm = math.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradients)))
  assert norm == pytest.approx(case['grad_norm'], rel=1e-4)
  embedding = gradients['tokenizer']['kernel'].reshape(case['grad_embedding'].shape)
  for ours, scenic in (
    (embedding, case['grad_embedding']),
    (gradients['head']['kernel'], case['grad_head']),
  ):
    np.testing.assert_allclose(ours, scenic, rtol=1e-4, atol=1e-5 * np.abs(scenic).max())
