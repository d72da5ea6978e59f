# SPDX-License-Identifier: Apache-2.0
"""Settings of the architecture: the config section `model`."""

import dataclasses
from typing import Literal

from vivit_jax.config.augment import (
  Count,
  Layers,
  LayersOrZero,
  NonNegative,
  Positive,
  Rate,
)
from vivit_jax.errors import ConfigError

Attention = Literal[
  'spatio_temporal',
  'factorised_encoder',
  'factorised_self_attention',
  'factorised_dot_product',
  # A factorised encoder without pooling in between: its second transformer attends along time,
  # separately for every patch (VideoPrism, arXiv 2402.13217).
  'factorised_encoder_by_patch',
]
# How tokens are pooled into the head's input; see model/pooling.py.
Pooling = Literal['cls', 'shared_cls', 'mean', 'attention', 'attention_block', 'none']


@dataclasses.dataclass(frozen=True)
class Model:
  """Architecture (paper sections 3.1 to 3.3); the defaults are B/16x2 of Table 2."""

  attention: Attention = 'spatio_temporal'
  layers: Layers = 12  # of the (spatial) transformer
  width: Count = 768  # hidden size D
  mlp_dim: Count = 3072
  heads: Count = 12
  tokenizer: Literal['tubelet', 'uniform_frame_sampling'] = 'tubelet'
  patch: tuple[Count, Count, Count] = (2, 16, 16)  # (t, h, w); t = 1 for uniform_frame_sampling
  sampled_frames: Count | None = None  # n_t of uniform_frame_sampling, paper section 3.2
  tubelet_init: Literal['central_frame', 'inflation', 'random'] = 'central_frame'  # equation 9, 8
  # For the two factorised encoders only; 0 = mean over time (Table 3).
  temporal_layers: LayersOrZero = 4
  order: Literal['space_time', 'time_space'] = 'space_time'  # factorised_self_attention only
  # shared_cls: one cls token for all frames (TimeSformer). attention: a learned query attends to
  # all tokens (VideoPrism). attention_block: the same in a full block, after blocks of
  # self-attention (V-JEPA 2). none: returns the tokens themselves, without a head.
  pooling: Pooling = 'cls'
  pooler_layers: LayersOrZero = 0  # self-attention blocks before attention_block's query
  pooler_width: Count | None = None  # width of pooling queries, keys and values; None = width
  # before_pooling: norm of all tokens; after_pooling: norm of their mean (VideoMAE).
  final_norm: Literal['before_pooling', 'after_pooling', 'none'] = 'before_pooling'
  final_norm_epsilon: NonNegative | None = None  # None = norm_epsilon
  # sincos: fixed, along the sequence of all tokens (VideoMAE). separable: the sum of a spatial and
  # a temporal embedding (TimeSformer). rotary: queries and keys are rotated by time, row and
  # column; V-JEPA 2 tiles the sines over a head's channels, V-JEPA 2.1 interleaves them.
  positions: Literal['learned', 'sincos', 'separable', 'rotary_tiled', 'rotary_interleaved'] = (
    'learned'
  )
  # Side of the token grid, in tokens, to which rotary positions are scaled for any clip size; 16
  # in V-JEPA 2.1.
  rotary_grid: Count | None = None
  key_bias: bool = True  # bias of the key projection; VideoMAE has none
  # Attention logits x become cap * tanh(x / cap); VideoPrism: 50.
  logit_cap: Positive | None = None
  time_dense: bool = False  # second linear layer after temporal attention (TimeSformer)
  dropout: Rate = 0.0
  attention_dropout: Rate = 0.0
  head_dropout: Rate = 0.0  # dropout of the head's input
  drop_path: Rate = 0.0  # stochastic depth rate p of the last layer, section 4.2
  drop_path_schedule: Literal['from_zero', 'paper'] = 'from_zero'  # l/(L-1)*p | l/L*p, l = 1..L
  drop_path_rescale: bool = False  # divide kept updates by 1 - rate; Scenic does not
  gelu: Literal['tanh', 'exact'] = 'tanh'
  norm_epsilon: NonNegative = 1e-6
  dtype: Literal['float32', 'bfloat16'] = 'float32'  # of activations; parameters stay float32
  # Type in which gradients of matrices are summed over devices; bfloat16 sends half the bytes.
  gradient_dtype: Literal['float32', 'bfloat16'] = 'float32'
  # How attention is computed; see model/kernels.py. cudnn needs an NVIDIA GPU and bfloat16, splash
  # and short a TPU.
  attention_kernel: Literal['auto', 'plain', 'blockwise', 'cudnn', 'splash', 'short'] = 'auto'
  scan: bool = False  # run layers with lax.scan: faster compilation; with remat, least memory
  # What is recomputed in the backward pass instead of stored. elementwise: norms and GELU. dots:
  # all but queries, keys, values, the attention output and the MLP's hidden layer. attention: all
  # but queries, keys, values and the attention output. block: all but a block's input. auto:
  # elementwise on NVIDIA GPUs, none elsewhere.
  remat: Literal['auto', 'none', 'elementwise', 'dots', 'attention', 'block'] = 'auto'


# Attentions whose tokens stay on a grid, so a cls token cannot be added.
ON_A_GRID = ('factorised_self_attention', 'factorised_dot_product', 'factorised_encoder_by_patch')


def check_variant(model: Model) -> None:
  """Rejects invalid combinations of settings.

  Raises:
    ConfigError: names the settings, their values and the remedy.
  """
  attention, pooling = model.attention, model.pooling
  if pooling == 'cls' and attention in ON_A_GRID:
    raise ConfigError(
      f"config.model.pooling='cls' is not defined for config.model.attention={attention!r}, "
      "whose tokens stay on a grid; use 'mean'"
    )
  for setting, given, possible, remedy in _requirements(model):
    if given and not possible:
      raise ConfigError(f'config.model.{setting}={getattr(model, setting)!r} needs {remedy}')
  rotary = model.positions.startswith('rotary')
  if (model.pooler_width or 0) % model.heads:
    raise ConfigError(
      f'config.model.pooler_width={model.pooler_width} is not divisible by '
      f'config.model.heads={model.heads}'
    )
  if rotary and model.width // model.heads < 6:
    raise ConfigError(
      f'config.model.heads={model.heads} leaves heads of {model.width // model.heads} channels: '
      'rotary positions need at least 6, two for each axis'
    )


def _requirements(model: Model) -> tuple[tuple[str, bool, bool, str], ...]:
  """Returns rows of setting, whether it has a requirement, whether that is met, and its text."""
  pooling, positions = model.pooling, model.positions
  joint = model.attention == 'spatio_temporal'
  divided = model.attention == 'factorised_self_attention'
  by_patch = model.attention == 'factorised_encoder_by_patch'
  rotary, attends = positions.startswith('rotary'), pooling.startswith('attention')
  only_divided = "config.model.attention='factorised_self_attention'"
  return (
    ('pooling', pooling == 'shared_cls', divided, only_divided),
    (
      'pooling',
      attends or pooling == 'none',
      model.attention != 'factorised_encoder',
      'an attention that keeps all tokens: factorised_encoder pools each frame',
    ),
    (
      'pooler_layers',
      model.pooler_layers > 0,
      pooling == 'attention_block',
      "config.model.pooling='attention_block'",
    ),
    (
      'pooler_width',
      model.pooler_width is not None,
      attends,
      "config.model.pooling='attention' or 'attention_block'",
    ),
    (
      'final_norm',
      model.final_norm == 'after_pooling',
      pooling == 'mean' and not by_patch,
      "config.model.pooling='mean' and an attention other than factorised_encoder_by_patch",
    ),
    (
      'positions',
      rotary or positions == 'sincos',
      joint,
      "config.model.attention='spatio_temporal'",
    ),
    ('positions', rotary, pooling != 'cls', 'a pooling other than cls, which has no position'),
    ('positions', positions == 'separable', divided, only_divided),
    ('rotary_grid', model.rotary_grid is not None, rotary, 'rotary positions'),
    ('time_dense', model.time_dense, divided, only_divided),
    (
      'temporal_layers',
      by_patch,
      model.temporal_layers > 0,
      'at least 1 with factorised_encoder_by_patch',
    ),
  )


@dataclasses.dataclass(frozen=True)
class Size:
  """Width and depth of a standard ViT."""

  layers: int
  width: int
  mlp_dim: int
  heads: int


# Table 1 of "How to train your ViT?" (arXiv 2106.10270) and Table 1 of ViT (arXiv 2010.11929).
SIZES = {
  'Ti': Size(layers=12, width=192, mlp_dim=768, heads=3),
  'S': Size(layers=12, width=384, mlp_dim=1536, heads=6),
  'B': Size(layers=12, width=768, mlp_dim=3072, heads=12),
  'L': Size(layers=24, width=1024, mlp_dim=4096, heads=16),
  'H': Size(layers=32, width=1280, mlp_dim=5120, heads=16),
}
