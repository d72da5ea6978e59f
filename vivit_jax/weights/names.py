# SPDX-License-Identifier: Apache-2.0
"""Parameter names of vision transformers in other libraries, mapped to ours, as tables."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
  """Conversion of an array's layout when reading a format, and back when writing it.

  Attributes:
    forward: (array, heads) -> one array per name of ours in the rule.
    backward: (our arrays) -> their array; None if the format is never written.
  """

  forward: Callable[[np.ndarray, int], Arrays]
  backward: Callable[..., np.ndarray] | None = None


# Shapes: D width, O output width, h heads, d head dimension; PyTorch stores [out, in].
TRANSFORMS: Mapping[str, Transform] = {
  'same': Transform(lambda a, _: (a,), lambda a: a),
  '[O,D] -> [D,O]': Transform(lambda a, _: (a.transpose(1, 0),), lambda a: a.transpose(1, 0)),
  '[hd,D] -> [D,h,d]': Transform(
    lambda a, h: (a.transpose(1, 0).reshape(a.shape[1], h, -1),),
    lambda a: a.reshape(a.shape[0], -1).transpose(1, 0),
  ),
  '[hd] -> [h,d]': Transform(lambda a, h: (a.reshape(h, -1),), lambda a: a.reshape(-1)),
  '[D,hd] -> [h,d,D]': Transform(
    lambda a, h: (a.transpose(1, 0).reshape(h, -1, a.shape[0]),),
    lambda a: a.reshape(-1, a.shape[-1]).transpose(1, 0),
  ),
  '[3hd,D] -> 3 [D,h,d]': Transform(
    lambda a, h: tuple(p.transpose(1, 0).reshape(a.shape[1], h, -1) for p in np.split(a, 3)),
    lambda *parts: np.concatenate([p.reshape(p.shape[0], -1).transpose(1, 0) for p in parts]),
  ),
  '[3hd] -> 3 [h,d]': Transform(
    lambda a, h: tuple(p.reshape(h, -1) for p in np.split(a, 3)),
    lambda *parts: np.concatenate([p.reshape(-1) for p in parts]),
  ),
  '[D,c,t,h,w] -> [t,h,w,c,D]': Transform(
    lambda a, _: (a.transpose(2, 3, 4, 1, 0),), lambda a: a.transpose(4, 3, 0, 1, 2)
  ),
  '[D,c,h,w] -> [1,h,w,c,D]': Transform(
    lambda a, _: (a.transpose(2, 3, 1, 0)[None],), lambda a: a[0].transpose(3, 2, 0, 1)
  ),
  # Scenic's 2D patches (images, uniform frame sampling) become tubelets of one frame.
  '[h,w,c,D] -> [1,h,w,c,D]': Transform(lambda a, _: (a if a.ndim == 5 else a[None],)),
  # VideoPrism: square patches as rows, norm scales stored minus 1, heads last.
  '[hwc,D] -> [1,h,w,c,D]': Transform(
    lambda a, _: (a.reshape(1, math.isqrt(len(a) // 3), math.isqrt(len(a) // 3), 3, a.shape[1]),),
    lambda a: a.reshape(-1, a.shape[-1]),
  ),
  'gain - 1': Transform(lambda a, _: (a + 1,), lambda a: a - 1),
  '[N,D] -> [1,N,D]': Transform(lambda a, _: (a[None],), lambda a: a[0]),
  '[1,1,D] -> [1,D]': Transform(lambda a, _: (a.reshape(1, -1),), lambda a: a[None]),
  '[D,h,d] -> [h,d,D]': Transform(
    lambda a, _: (a.transpose(1, 2, 0),), lambda a: a.transpose(2, 0, 1)
  ),
}


@dataclasses.dataclass(frozen=True)
class Rule:
  """Names of one parameter; `{i}` is the layer number on both sides."""

  theirs: str
  ours: tuple[str, ...]
  transform: str = 'same'


@dataclasses.dataclass(frozen=True)
class Table:
  """All parameter names of a format.

  Attributes:
    name: name of the format in messages.
    rules: rules; the first one for a name of ours is used for writing.
    refused: shell-style pattern of their names -> why such a model is not supported.
    headless: likewise, but such a model is rejected only if the classifier is loaded.
    unused: likewise for parameters that do not affect the outputs and are ignored.
  """

  name: str
  rules: tuple[Rule, ...]
  refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
  headless: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unused: Mapping[str, str] = dataclasses.field(default_factory=dict)


def pair(theirs: str, ours: str, leaves: Mapping[str, str], transform: str = 'same') -> list[Rule]:
  return [
    Rule(f'{theirs}{a}', (f'{ours}/{b}',), transform if b == 'kernel' else 'same')
    for a, b in leaves.items()
  ]


_FLAX_DENSE = {'/kernel': 'kernel', '/bias': 'bias'}
_FLAX_NORM = {'/scale': 'scale', '/bias': 'bias'}
TORCH_DENSE = {'.weight': 'kernel', '.bias': 'bias'}
TORCH_NORM = {'.weight': 'scale', '.bias': 'bias'}
BLOCK = 'spacetime/block_{i}'


def _flax_stage(theirs: str, ours: str, layers: Mapping[str, str]) -> Iterator[Rule]:
  """Yields the rules of one transformer; `layers` maps names of layers in a block to ours."""
  yield Rule(f'{theirs}/posembed_input/pos_embedding', (f'{ours}/position',))
  yield from pair(f'{theirs}/encoder_norm', f'{ours}/norm', _FLAX_NORM)
  for name, our in layers.items():
    block, our_block = f'{theirs}/encoderblock_{{i}}/{name}', f'{ours}/block_{{i}}/{our}'
    if 'norm' in our:
      yield from pair(block, our_block, _FLAX_NORM)
    elif our == 'mlp':
      yield from pair(f'{block}/Dense_0', f'{our_block}/hidden', _FLAX_DENSE)
      yield from pair(f'{block}/Dense_1', f'{our_block}/out', _FLAX_DENSE)
    else:
      for part in ('query', 'key', 'value', 'out'):
        yield from pair(f'{block}/{part}', f'{our_block}/{part}', _FLAX_DENSE)


_SCENIC_BLOCK = {
  'LayerNorm_0': 'attention_norm',
  'MultiHeadDotProductAttention_0': 'attention',
  'LayerNorm_1': 'mlp_norm',
  'MlpBlock_0': 'mlp',
}
_SCENIC_FACTORISED_BLOCK = {
  'LayerNorm_space': 'attention_norm_space',
  'MultiHeadDotProductAttention_space': 'attention_space',
  'LayerNorm_time': 'attention_norm_time',
  'MultiHeadDotProductAttention_time': 'attention_time',
  'LayerNorm_mlp': 'mlp_norm',
  'MlpBlock': 'mlp',
}
_AUGREG_BLOCK = {  # submodules were numbered consecutively in these files
  'LayerNorm_0': 'attention_norm',
  'MultiHeadDotProductAttention_1': 'attention',
  'LayerNorm_2': 'mlp_norm',
  'MlpBlock_3': 'mlp',
}
_PRE_LOGITS = 'a tanh layer between pooling and head (representation_size) (not supported)'
_FLAX_EMBEDDING = (
  Rule('embedding/kernel', ('tokenizer/kernel',), '[h,w,c,D] -> [1,h,w,c,D]'),
  Rule('embedding/bias', ('tokenizer/bias',)),
)

SCENIC = Table(
  'Scenic',
  (
    *_FLAX_EMBEDDING,
    *pair('output_projection', 'head', _FLAX_DENSE),
    Rule('cls', ('spacetime/cls',)),
    Rule('cls_SpatialTransformer', ('spatial/cls',)),
    Rule('cls_TemporalTransformer', ('temporal/cls',)),
    *_flax_stage('Transformer', 'spacetime', _SCENIC_BLOCK | _SCENIC_FACTORISED_BLOCK),
    *_flax_stage('SpatialTransformer', 'spatial', _SCENIC_BLOCK),
    *_flax_stage('TemporalTransformer', 'temporal', _SCENIC_BLOCK),
  ),
  headless={'pre_logits/*': _PRE_LOGITS},
)

AUGREG = Table(
  'AugReg image ViT',
  (
    *_FLAX_EMBEDDING,
    *pair('head', 'head', _FLAX_DENSE),
    Rule('cls', ('spacetime/cls',)),
    *_flax_stage('Transformer', 'spacetime', _AUGREG_BLOCK),
  ),
  refused={'MAPHead_0/*': 'attention pooling (not supported)', 'ResNet*': 'a hybrid with a ResNet'},
  headless={'pre_logits/*': _PRE_LOGITS},
)

HUGGINGFACE_BLOCK = {
  'attention/query': 'attention.attention.query',
  'attention/key': 'attention.attention.key',
  'attention/value': 'attention.attention.value',
  'attention/out': 'attention.output.dense',
  'attention_norm': 'layernorm_before',
  'mlp/hidden': 'intermediate.dense',
  'mlp/out': 'output.dense',
  'mlp_norm': 'layernorm_after',
}
HUGGINGFACE_5_BLOCK = HUGGINGFACE_BLOCK | {  # module names since transformers 5
  'attention/query': 'attention.q_proj',
  'attention/key': 'attention.k_proj',
  'attention/value': 'attention.v_proj',
  'attention/out': 'attention.o_proj',
  'mlp/hidden': 'mlp.fc1',
  'mlp/out': 'mlp.fc2',
}
_TIMM_BLOCK = {
  'attention/qkv': 'attn.qkv',
  'attention/out': 'attn.proj',
  'attention_norm': 'norm1',
  'mlp/hidden': 'mlp.fc1',
  'mlp/out': 'mlp.fc2',
  'mlp_norm': 'norm2',
}


def torch_layers(
  theirs: str, ours: str, names: Mapping[str, str], gain: str = 'same'
) -> Iterator[Rule]:
  """Yields rules of layers; `names` maps our names to theirs, `gain` is the norms' transform."""
  for name, their in names.items():
    layer, weight, bias = f'{ours}/{name}', f'{theirs}.{their}.weight', f'{theirs}.{their}.bias'
    parent, _, part = layer.rpartition('/')
    if part == 'qkv':
      parts = [f'{parent}/{part}' for part in ('query', 'key', 'value')]
      yield Rule(weight, tuple(f'{part}/kernel' for part in parts), '[3hd,D] -> 3 [D,h,d]')
      yield Rule(bias, tuple(f'{part}/bias' for part in parts), '[3hd] -> 3 [h,d]')
    elif part in ('query', 'key', 'value'):
      yield Rule(weight, (f'{layer}/kernel',), '[hd,D] -> [D,h,d]')
      yield Rule(bias, (f'{layer}/bias',), '[hd] -> [h,d]')
    elif part == 'out' and 'attention' in parent.rpartition('/')[2]:
      yield Rule(weight, (f'{layer}/kernel',), '[D,hd] -> [h,d,D]')
      yield Rule(bias, (f'{layer}/bias',))
    elif 'norm' in part:
      yield Rule(weight, (f'{layer}/scale',), gain)
      yield Rule(bias, (f'{layer}/bias',))
    else:
      yield from pair(f'{theirs}.{their}', layer, TORCH_DENSE, '[O,D] -> [D,O]')


def _huggingface(name: str, prefix: str, kernel: str) -> Table:
  embeddings = f'{prefix}.embeddings'
  return Table(
    name,
    (
      *pair(f'{embeddings}.patch_embeddings.projection', 'tokenizer', TORCH_DENSE, kernel),
      Rule(f'{embeddings}.cls_token', ('spacetime/cls',)),
      Rule(f'{embeddings}.position_embeddings', ('spacetime/position',)),
      *torch_layers(f'{prefix}.encoder.layer.{{i}}', BLOCK, HUGGINGFACE_BLOCK),
      *torch_layers(f'{prefix}.layers.{{i}}', BLOCK, HUGGINGFACE_5_BLOCK),
      *pair(f'{prefix}.layernorm', 'spacetime/norm', TORCH_NORM),
      *pair('classifier', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
    ),
    refused={
      '*distillation*': 'a distillation token, i.e. a second token (not supported)',
      '*mask_token': 'a masked image model',
    },
    unused={f'{prefix}.pooler.*': 'the classifier reads the token itself, not the pooler'},
  )


HUGGINGFACE_VIVIT = _huggingface('Hugging Face ViViT', 'vivit', '[D,c,t,h,w] -> [t,h,w,c,D]')
HUGGINGFACE_VIT = _huggingface('Hugging Face ViT', 'vit', '[D,c,h,w] -> [1,h,w,c,D]')

# Temporary name of layer scale (x + gamma * f(x)), until it is folded into f's last layer.
LAYER_SCALE = 'layer_scale'
_ATTENTION_SCALE = (f'spacetime/block_{{i}}/attention/out/{LAYER_SCALE}',)
_MLP_SCALE = (f'spacetime/block_{{i}}/mlp/out/{LAYER_SCALE}',)
TIMM = Table(
  'timm image ViT',
  (
    *pair('patch_embed.proj', 'tokenizer', TORCH_DENSE, '[D,c,h,w] -> [1,h,w,c,D]'),
    Rule('cls_token', ('spacetime/cls',)),
    Rule('pos_embed', ('spacetime/position',)),
    *torch_layers('blocks.{i}', BLOCK, _TIMM_BLOCK),
    Rule('blocks.{i}.ls1.gamma', _ATTENTION_SCALE),
    Rule('blocks.{i}.ls2.gamma', _MLP_SCALE),
    Rule('blocks.{i}.gamma_1', _ATTENTION_SCALE),
    Rule('blocks.{i}.gamma_2', _MLP_SCALE),
    *pair('norm', 'spacetime/norm', TORCH_NORM),
    *pair('head', 'head', TORCH_DENSE, '[O,D] -> [D,O]'),
  ),
  refused={
    'dist_token': 'a distillation token, i.e. a second token (not supported)',
    'head_dist.*': 'a distillation head, i.e. a second classifier (not supported)',
    'reg_token': 'register tokens (not supported)',
    'norm_pre.*': 'a norm before the blocks (not supported)',
    'fc_norm.*': 'a norm after pooling (not supported)',
    'attn_pool.*': 'attention pooling (not supported)',
    'patch_embed.norm.*': 'a norm of the patches (not supported)',
    'blocks.*.attn.[qk]_norm.*': 'norms of queries and keys (not supported)',
    'blocks.*.attn.[qkv]_bias': "BEiT's attention with relative positions (not supported)",
    'blocks.*.attn.rel*': 'relative positions (not supported)',
    'blocks.*.mlp.w*': 'a gated MLP (SwiGLU) (not supported)',
  },
)
