# SPDX-License-Identifier: Apache-2.0
"""What config.json of each Hugging Face model says, in our terms and back: data only."""

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
  """One model_type.

  Attributes:
    table: of its parameters' names.
    prefix: of the names but for the classifier's; base models are saved without.
    classifier, encoder: names of its classes with and without a head.
    defaults: what transformers assumes where config.json leaves a setting out.
    fixed: our settings that each such model has.
    must: settings of config.json that models of ours have, and the value they need.
    sizes: their settings that are a number of ours.
    clip: their settings of frames, height and width.
    channels: their setting of the number of channels.
    bias: their setting of queries' and values' bias.
    poolings: ways of pooling that it has, and the final norms that go with each.
    says: what it is, for messages.
    family: key of families.FAMILIES: what the published weights were trained to see.
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
    'TimeSformer is factorised_self_attention with a cls token of all frames, positions of place '
    'and time, a second linear layer behind the attention along time and one softmax head',
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
    'VideoPrism is factorised_encoder_by_patch, and the attention of its head as wide as the MLP',
    'videoprism',
    sizes={name: ours for name, ours in _SIZES.items() if ours != 'layers'}
    | {
      'num_spatial_layers': 'layers',
      'num_temporal_layers': 'temporal_layers',
      'attn_logit_softcapping': 'logit_cap',
    },
  ),
}
