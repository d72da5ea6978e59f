# SPDX-License-Identifier: Apache-2.0
"""Parameter names of encoders other than ViViT in their libraries, mapped to ours, as tables."""

from collections.abc import Iterator

from vivit_jax.weights.names import (
  BLOCK,
  HUGGINGFACE_5_BLOCK,
  HUGGINGFACE_BLOCK,
  TORCH_DENSE,
  TORCH_NORM,
  Rule,
  Table,
  pair,
  torch_layers,
)

_TEXT_TOWER = "LvT's text tower or its auxiliary layers, which ours lack"
_FLAX_HEADS = {'/w': 'kernel', '/b': 'bias'}
_FLAX_LINEAR = {'/linear/kernel': 'kernel', '/linear/bias': 'bias'}


def _flax_norm(theirs: str, ours: str) -> Iterator[Rule]:
  yield Rule(f'{theirs}/scale', (f'{ours}/scale',), 'gain - 1')
  yield Rule(f'{theirs}/bias', (f'{ours}/bias',))


def _flax_attention(theirs: str, ours: str) -> Iterator[Rule]:
  for part in ('query', 'key', 'value'):
    yield from pair(f'{theirs}/{part}', f'{ours}/{part}', _FLAX_HEADS)
  yield from pair(f'{theirs}/post', f'{ours}/out', _FLAX_HEADS, '[D,h,d] -> [h,d,D]')


def _flax_stage(name: str) -> Iterator[Rule]:
  yield Rule(f'{name}_pos_emb/emb_var', (f'{name}/position',), '[N,D] -> [1,N,D]')
  yield from _flax_norm(f'{name}_ln', f'{name}/norm')
  theirs, ours = f'{name}_encoder/transformers_stack/x_layers_{{i}}', f'{name}/block_{{i}}'
  yield from _flax_norm(f'{theirs}/layer_norm', f'{ours}/attention_norm')
  yield from _flax_attention(f'{theirs}/self_attention', f'{ours}/attention')
  yield from _flax_norm(f'{theirs}/ff_layer/layer_norm', f'{ours}/mlp_norm')
  yield from pair(f'{theirs}/ff_layer/ffn_layer1', f'{ours}/mlp/hidden', _FLAX_LINEAR)
  yield from pair(f'{theirs}/ff_layer/ffn_layer2', f'{ours}/mlp/out', _FLAX_LINEAR)


# Without the prefix params/ or params/encoder/, and with layers unstacked.
VIDEOPRISM_FLAX = Table(
  'VideoPrism',
  (
    Rule('patch_projection/linear/kernel', ('tokenizer/kernel',), '[hwc,D] -> [1,h,w,c,D]'),
    Rule('patch_projection/linear/bias', ('tokenizer/bias',)),
    *_flax_stage('spatial'),
    *_flax_stage('temporal'),
    Rule('atten_pooler/pooling_attention_query', ('pooler/query',)),
    *_flax_attention('atten_pooler/pooling_attention', 'pooler/attention'),
    Rule('atten_pooler/pooling_attention/per_dim_scale/per_dim_scale', ('pooler/attention/scale',)),
    *_flax_norm('atten_pooler/pooling_attention_layer_norm', 'pooler/norm'),
    *pair('projection', 'head', _FLAX_LINEAR),
  ),
  refused={
    '*text_encoder*': _TEXT_TOWER,
    '*auxiliary_encoder*': _TEXT_TOWER,
    '*contrastive*': _TEXT_TOWER,
  },
)


def _torch_stage(name: str, number: int) -> Iterator[Rule]:
  start = 'vision_model'
  yield Rule(f'{start}.{name}_embeddings.position_embeddings', (f'{name}/position',))
  layers = f'{start}.{name}_layers.{{i}}'
  yield from torch_layers(layers, f'{name}/block_{{i}}', HUGGINGFACE_5_BLOCK, 'gain - 1')
  yield from torch_layers(start, name, {'norm': f'layernorm{number}'}, 'gain - 1')


HUGGINGFACE_VIDEOPRISM = Table(
  'Hugging Face VideoPrism',
  (
    *pair(
      'vision_model.spatial_embeddings.patch_embeddings.projection',
      'tokenizer',
      TORCH_DENSE,
      '[D,c,t,h,w] -> [t,h,w,c,D]',
    ),
    *_torch_stage('spatial', 1),
    *_torch_stage('temporal', 2),
    Rule('head.pooling_attention_query', ('pooler/query',), '[1,1,D] -> [1,D]'),
    Rule('head.per_dim_scale', ('pooler/attention/scale',)),
    *torch_layers(
      'head',
      'pooler',
      {
        'attention/query': 'q_proj',
        'attention/key': 'k_proj',
        'attention/value': 'v_proj',
        'attention/out': 'o_proj',
      },
    ),
    Rule('head_layernorm.weight', ('pooler/norm/scale',), 'gain - 1'),
    Rule('head_layernorm.bias', ('pooler/norm/bias',)),
    *pair('classifier', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
  refused={
    '*text_model*': _TEXT_TOWER,
    '*video_model*': _TEXT_TOWER,
    '*auxiliary*': _TEXT_TOWER,
    '*contrastive*': _TEXT_TOWER,
  },
)

PRETRAINING = 'the decoder of pretraining'


def _videomae_layers(theirs: str, ours: str) -> Iterator[Rule]:
  # As transformers writes them; some files have query.bias and value.bias.
  for short, name in (('q', 'query'), ('v', 'value')):
    bias = f'{theirs}.attention.attention.{short}_bias'
    yield Rule(bias, (f'{ours}/attention/{name}/bias',), '[hd] -> [h,d]')
  yield from torch_layers(theirs, ours, HUGGINGFACE_BLOCK)


HUGGINGFACE_VIDEOMAE = Table(
  'Hugging Face VideoMAE',
  (
    *pair(
      'videomae.embeddings.patch_embeddings.projection',
      'tokenizer',
      TORCH_DENSE,
      '[D,c,t,h,w] -> [t,h,w,c,D]',
    ),
    *_videomae_layers('videomae.encoder.layer.{i}', BLOCK),
    *pair('fc_norm', 'spacetime/norm', TORCH_NORM),
    *pair('videomae.layernorm', 'spacetime/norm', TORCH_NORM),
    *pair('classifier', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
  refused={'*cls_token': 'a cls token, which VideoMAE has none of'},
  unused={
    'decoder.*': PRETRAINING,
    'encoder_to_decoder.weight': PRETRAINING,
    'mask_token': PRETRAINING,
  },
)

# The rest of a pretraining checkpoint. Its blocks have other heads than the encoder's.
HUGGINGFACE_VIDEOMAE_DECODER = Table(
  'Hugging Face VideoMAE decoder',
  (
    Rule('encoder_to_decoder.weight', ('decoder/embed/kernel',), '[O,D] -> [D,O]'),
    Rule('mask_token', ('decoder/mask_token',)),
    *_videomae_layers('decoder.decoder_layers.{i}', 'decoder/block_{i}'),
    *pair('decoder.norm', 'decoder/norm', TORCH_NORM),
    *pair('decoder.head', 'decoder/out', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
)

HUGGINGFACE_TIMESFORMER = Table(
  'Hugging Face TimeSformer',
  (
    *pair(
      'timesformer.embeddings.patch_embeddings.projection',
      'tokenizer',
      TORCH_DENSE,
      '[D,c,h,w] -> [1,h,w,c,D]',
    ),
    Rule('timesformer.embeddings.cls_token', ('spacetime/cls',)),
    Rule('timesformer.embeddings.position_embeddings', ('spacetime/position',)),
    Rule('timesformer.embeddings.time_embeddings', ('spacetime/time_position',)),
    *torch_layers(
      'timesformer.encoder.layer.{i}',
      BLOCK,
      {
        'attention_norm_time': 'temporal_layernorm',
        'attention_time/qkv': 'temporal_attention.attention.qkv',
        'attention_time/out': 'temporal_attention.output.dense',
        'time_dense': 'temporal_dense',
        'attention_norm_space': 'layernorm_before',
        'attention_space/qkv': 'attention.attention.qkv',
        'attention_space/out': 'attention.output.dense',
        'mlp_norm': 'layernorm_after',
        'mlp/hidden': 'intermediate.dense',
        'mlp/out': 'output.dense',
      },
    ),
    *pair('timesformer.layernorm', 'spacetime/norm', TORCH_NORM),
    *pair('classifier', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
)

_MLP = {'mlp/hidden': 'mlp.fc1', 'mlp/out': 'mlp.fc2'}
HUGGINGFACE_VJEPA2 = Table(
  'Hugging Face V-JEPA 2',
  (
    *pair(
      'vjepa2.encoder.embeddings.patch_embeddings.proj',
      'tokenizer',
      TORCH_DENSE,
      '[D,c,t,h,w] -> [t,h,w,c,D]',
    ),
    *torch_layers(
      'vjepa2.encoder.layer.{i}',
      BLOCK,
      {
        'attention_norm': 'norm1',
        'attention/query': 'attention.query',
        'attention/key': 'attention.key',
        'attention/value': 'attention.value',
        'attention/out': 'attention.proj',
        'mlp_norm': 'norm2',
        **_MLP,
      },
    ),
    *pair('vjepa2.encoder.layernorm', 'spacetime/norm', TORCH_NORM),
    Rule('pooler.query_tokens', ('pooler/query',), '[1,1,D] -> [1,D]'),
    *torch_layers(
      'pooler.self_attention_layers.{i}',
      'pooler/block_{i}',
      {
        'attention_norm': 'layer_norm1',
        'attention/query': 'self_attn.q_proj',
        'attention/key': 'self_attn.k_proj',
        'attention/value': 'self_attn.v_proj',
        'attention/out': 'self_attn.out_proj',
        'mlp_norm': 'layer_norm2',
        **_MLP,
      },
    ),
    *torch_layers(
      'pooler.cross_attention_layer',
      'pooler',
      {
        'attention_norm': 'layer_norm1',
        'attention/query': 'cross_attn.q_proj',
        'attention/key': 'cross_attn.k_proj',
        'attention/value': 'cross_attn.v_proj',
        'mlp_norm': 'layer_norm2',
        **_MLP,
      },
    ),
    *pair('classifier', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
  refused={
    '*register*': 'register tokens that ours lack',
    '*[qk]_norm*': 'norms of queries and keys that ours lack',
  },
  unused={'vjepa2.predictor.*': 'the predictor of pretraining'},
)
