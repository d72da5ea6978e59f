# SPDX-License-Identifier: Apache-2.0
"""What Scenic calls the parameters and settings of a ViViT, in our names."""

from typing import Any

import numpy as np

ATTENTION = {
  'spacetime': 'spatio_temporal',
  'factorized_encoder': 'factorised_encoder',
  'factorized_self_attention_block': 'factorised_self_attention',
  'factorized_dot_product_attention': 'factorised_dot_product',
}
POOLING = {'token': 'cls', 'gap': 'mean'}
TOKENIZER = {'3d_conv': 'tubelet', 'temporal_sampling': 'uniform_frame_sampling'}
STAGE = {
  'Transformer': 'spacetime',
  'SpatialTransformer': 'spatial',
  'TemporalTransformer': 'temporal',
}
CLS = {  # the cls token that each stage starts with
  'Transformer': 'cls',
  'SpatialTransformer': 'cls_SpatialTransformer',
  'TemporalTransformer': 'cls_TemporalTransformer',
}
LAYER = {  # in a block: the layer, and the same layer in factorised self-attention
  'LayerNorm_0': 'attention_norm',
  'LayerNorm_1': 'mlp_norm',
  'MultiHeadDotProductAttention_0': 'attention',
  'MlpBlock_0': 'mlp',
  'LayerNorm_space': 'attention_norm_space',
  'LayerNorm_time': 'attention_norm_time',
  'LayerNorm_mlp': 'mlp_norm',
  'MultiHeadDotProductAttention_space': 'attention_space',
  'MultiHeadDotProductAttention_time': 'attention_time',
  'MlpBlock': 'mlp',
}


def our_settings(config: dict[str, Any]) -> dict[str, Any]:
  """The keyword arguments of the oracle, from Scenic's experiment config."""
  model = config['model']
  encoding = model['temporal_encoding_config']
  settings = {
    'attention': ATTENTION[model['attention_config']['type']],
    'pooling': POOLING[model['classifier']],
    'tokenizer': TOKENIZER[encoding['method']],
    'sampled_frames': encoding.get('n_sampled_frames'),
  }
  if settings['attention'] == 'factorised_self_attention':
    settings['order'] = model['attention_config']['attention_order']
  return settings


def our_params(scenic: dict[str, Any]) -> dict[str, Any]:
  """Scenic's parameter tree as ours; every leaf is used, and an unknown name is an error."""
  left = dict(scenic)
  embedding = left.pop('embedding')
  kernel = np.asarray(embedding['kernel'])
  params = {
    'tokenizer': {
      'kernel': kernel if kernel.ndim == 5 else kernel[None],  # a 2D patch is a tubelet of 1 frame
      'bias': embedding['bias'],
    },
    'head': left.pop('output_projection'),
  }
  for name, stage in STAGE.items():
    if name in left:
      params[stage] = _stage(left.pop(name))
      if CLS[name] in left:
        params[stage]['cls'] = left.pop(CLS[name])
  if left:
    raise KeyError(f'unknown parameters: {", ".join(left)}')
  return params


def _stage(scenic: dict[str, Any]) -> dict[str, Any]:
  left = dict(scenic)
  stage = {
    'position': left.pop('posembed_input')['pos_embedding'],
    'norm': left.pop('encoder_norm'),
  }
  for name, block in left.items():
    prefix, index = name.split('_')
    if prefix != 'encoderblock':
      raise KeyError(f'unknown parameters: {name}')
    stage[f'block_{index}'] = {LAYER[layer]: _layer(layer, leaf) for layer, leaf in block.items()}
  return stage


def _layer(name: str, scenic: dict[str, Any]) -> dict[str, Any]:
  if name.startswith('MlpBlock'):
    return {'hidden': scenic['Dense_0'], 'out': scenic['Dense_1']}
  return scenic
