# SPDX-License-Identifier: Apache-2.0
"""Mapping between config.json of each Hugging Face model and this package's settings, as data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vivit_jax.weights.names import HUGGINGFACE_VIT, HUGGINGFACE_VIVIT, Table
from vivit_jax.weights.names_encoders import (
  HUGGINGFACE_TIMESFORMER,
  HUGGINGFACE_VIDEOMAE,
  HUGGINGFACE_VIDEOPRISM,
  HUGGINGFACE_VJEPA2,
)

_SIZES = {
  'hidden_size': 'width',
  'num_hidden_layers': 'layers',
  'num_attention_heads': 'heads',
  'intermediate_size': 'mlp_dim',
  'layer_norm_eps': 'norm_epsilon',
}


@dataclasses.dataclass(frozen=True)
class HuggingFaceModel:
  """One model_type of transformers.

  Attributes:
    table: table of its parameter names.
    prefix: prefix of all names except the classifier's; base models are saved without it.
    classifier, encoder: names of its classes with and without a head.
    defaults: transformers' defaults for settings that config.json omits.
    fixed: settings of this package that all such models have.
    must: settings of config.json with the only supported value.
    sizes: numeric settings of config.json with the corresponding ones of this package.
    clip: names of its settings for frames, height and width.
    channels: name of its setting for the number of channels.
    bias: name of its setting for the bias of queries and values.
    poolings: its pooling types, each with the possible final norms.
    says: description for messages.
    family: key of families.FAMILIES, with the preprocessing of the published weights.
  """

  table: Table
  prefix: str
  classifier: str
  encoder: str
  defaults: Mapping[str, Any]
  fixed: dict[str, Any]
  poolings: Mapping[str, tuple[str, ...]]
  says: str
  family: str
  must: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  sizes: Mapping[str, str] = dataclasses.field(default_factory=lambda: _SIZES)
  clip: tuple[str, str] = ('num_frames', 'image_size')
  channels: str = 'num_channels'
  bias: str = 'qkv_bias'


_JOINT = {'attention': 'spatio_temporal'}
_TOKENS = ('before_pooling',)

MODELS = {
  'vivit': HuggingFaceModel(
    HUGGINGFACE_VIVIT,
    'vivit',
    'VivitForVideoClassification',
    'VivitModel',
    {'hidden_act': 'gelu_fast', 'layer_norm_eps': 1e-6},
    _JOINT,
    {'cls': _TOKENS},
    'ViViT is spatio_temporal with a cls token, tubelets and one softmax head',
    'vivit',
  ),
  'vit': HuggingFaceModel(
    HUGGINGFACE_VIT,
    'vit',
    'ViTForImageClassification',
    'ViTModel',
    {'hidden_act': 'gelu', 'layer_norm_eps': 1e-12},
    _JOINT,
    {'cls': _TOKENS},
    'ViT is an image model',
    'image_vit',
  ),
  'videomae': HuggingFaceModel(
    HUGGINGFACE_VIDEOMAE,
    'videomae',
    'VideoMAEForVideoClassification',
    'VideoMAEModel',
    {'hidden_act': 'gelu', 'layer_norm_eps': 1e-12, 'tubelet_size': 2, 'use_mean_pooling': True},
    _JOINT | {'positions': 'sincos', 'key_bias': False},
    {'mean': ('after_pooling',), 'none': ('before_pooling', 'none')},
    'VideoMAE is spatio_temporal with fixed positions, no key bias, a norm of the mean of all '
    'tokens and one softmax head',
    'videomae',
    bias='qv_bias',
  ),
  'timesformer': HuggingFaceModel(
    HUGGINGFACE_TIMESFORMER,
    'timesformer',
    'TimesformerForVideoClassification',
    'TimesformerModel',
    {'hidden_act': 'gelu', 'layer_norm_eps': 1e-6, 'attention_type': 'divided_space_time'},
    {
      'attention': 'factorised_self_attention',
      'order': 'time_space',
      'positions': 'separable',
      'time_dense': True,
    },
    {'shared_cls': _TOKENS},
    'TimeSformer is factorised_self_attention with one cls token for all frames, separable '
    'positions, a second linear layer after temporal attention and one softmax head',
    'timesformer',
    must={'attention_type': 'divided_space_time'},
  ),
  'vjepa2': HuggingFaceModel(
    HUGGINGFACE_VJEPA2,
    'vjepa2',
    'VJEPA2ForVideoClassification',
    'VJEPA2Model',
    {'hidden_act': 'gelu', 'layer_norm_eps': 1e-6, 'tubelet_size': 2, 'mlp_ratio': 4.0},
    _JOINT | {'positions': 'rotary_tiled'},
    {'attention_block': _TOKENS, 'none': _TOKENS},
    'V-JEPA 2 is spatio_temporal with tiled rotary positions, and its head has an attention block',
    'vjepa2',
    sizes={name: ours for name, ours in _SIZES.items() if ours != 'mlp_dim'},
    clip=('frames_per_clip', 'crop_size'),
    channels='in_chans',
  ),
  'videoprism_vision_model': HuggingFaceModel(
    HUGGINGFACE_VIDEOPRISM,
    'vision_model',
    'VideoPrismForVideoClassification',
    'VideoPrismVisionModel',
    {'hidden_act': 'gelu_python', 'layer_norm_eps': 1e-6, 'attn_logit_softcapping': 50.0},
    {'attention': 'factorised_encoder_by_patch'},
    {'attention': _TOKENS, 'none': _TOKENS},
    'VideoPrism is factorised_encoder_by_patch with pooling attention as wide as the MLP',
    'videoprism',
    sizes={name: ours for name, ours in _SIZES.items() if ours != 'layers'}
    | {
      'num_spatial_layers': 'layers',
      'num_temporal_layers': 'temporal_layers',
      'attn_logit_softcapping': 'logit_cap',
    },
  ),
}
