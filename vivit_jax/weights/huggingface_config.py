# SPDX-License-Identifier: Apache-2.0
"""Converts settings between Hugging Face's config.json and this package."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config.schema import Model
from vivit_jax.errors import CheckpointError
from vivit_jax.weights.families import FAMILIES, Family
from vivit_jax.weights.huggingface_models import MODELS
from vivit_jax.weights.source import Source

# transformers.activations has three names for the tanh approximation and two for the exact GELU.
_GELU = {
  'gelu': 'exact',
  'gelu_python': 'exact',
  'gelu_fast': 'tanh',
  'gelu_new': 'tanh',
  'gelu_pytorch_tanh': 'tanh',
}
_EXACT = tuple(name for name, kind in _GELU.items() if kind == 'exact')
# Settings of this package that must match for a Hugging Face model to be equivalent.
_VARIANT = (
  'attention', 'tokenizer', 'positions', 'rotary_grid', 'key_bias', 'logit_cap', 'time_dense',
)  # fmt: skip


def read_settings(
  path: Path, which: str, config: Mapping[str, Any], names: Collection[str]
) -> dict[str, Any]:
  """Returns the settings in config.json, by the names of config.Model and `clip.frames` etc.

  Args:
    path: path of config.json, for messages.
    which: key of MODELS.
    config: content of config.json, completed with transformers' defaults.
    names: names of the tensors, which determine whether there is a head.

  Raises:
    CheckpointError: a setting is not supported or contradicts the tensors.
  """
  model = MODELS[which]
  activation = config['hidden_act']
  if not isinstance(activation, str) or activation not in _GELU:
    raise CheckpointError(path, f'hidden_act is {activation!r}, supported are {", ".join(_GELU)}')
  for setting, needed in {model.channels: 3, **model.must}.items():
    if (held := config.get(setting, needed)) != needed:
      raise CheckpointError(path, f'{setting} is {held!r}, but only {needed!r} is supported')
  said = {ours: config.get(theirs) for theirs, ours in model.sizes.items()}
  if 'mlp_ratio' in config and 'mlp_dim' not in said:
    said['mlp_dim'] = _times(path, config['hidden_size'], config['mlp_ratio'])
  frames, side = (config.get(name) for name in model.clip)
  high, wide = side if isinstance(side, list) and len(side) == 2 else (side, side)
  said |= {'clip.frames': frames, 'clip.height': high, 'clip.width': wide}
  said |= {'gelu': _GELU[activation], 'patch': _patch(config), **model.fixed}
  if which == 'videomae':
    said |= _videomae(path, config, names)
  elif which == 'vjepa2':
    pools = 'pooler.query_tokens' in names
    said['pooling'] = 'attention_block' if pools else 'none'
    said['pooler_layers'] = config.get('num_pooler_layers') if pools else None
  elif which == 'videoprism_vision_model':
    said['pooling'] = 'attention' if 'head.pooling_attention_query' in names else 'none'
  return said


def _videomae(path: Path, config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
  mean = config['use_mean_pooling']
  head, norm = 'fc_norm.weight' in names, 'videomae.layernorm.weight' in names
  if norm == mean or (head and not mean):
    held = 'have' if norm or head else 'lack'
    name = 'fc_norm.weight' if head and not norm else 'videomae.layernorm.weight'
    raise CheckpointError(path, f'use_mean_pooling is {mean!r}, but the tensors {held} {name!r}')
  if 'classifier.weight' in names and not mean:
    raise CheckpointError(path, 'use_mean_pooling is False, but only mean pooling is supported')
  if head:
    # transformers does not apply config.json's epsilon to this norm.
    return {'pooling': 'mean', 'final_norm': 'after_pooling', 'final_norm_epsilon': 1e-5}
  return {'pooling': 'none', 'final_norm': 'before_pooling' if norm else 'none'}


def _times(path: Path, width: Any, ratio: Any) -> int:
  if type(width) is not int or type(ratio) not in (int, float):
    raise CheckpointError(path, f'hidden_size is {width!r} and mlp_ratio {ratio!r}')
  return int(width * ratio)


def _patch(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
  """Returns (t, h, w) from config.json, or None if it does not specify them."""
  tubelet, size = config.get('tubelet_size'), config.get('patch_size')
  if isinstance(tubelet, list):
    return tuple(tubelet)
  if size is None:
    return None if tubelet is None else (tubelet,)
  return (tubelet or 1, *(size if isinstance(size, list) else (size, size)))


def kind_of(model: Model) -> str:
  """Returns the key in MODELS of the candidate for an equivalent Hugging Face model."""
  if model.positions == 'sincos':
    return 'videomae'
  if model.positions.startswith('rotary'):
    return 'vjepa2'
  if model.pooling == 'shared_cls':
    return 'timesformer'
  if model.attention == 'factorised_encoder_by_patch':
    return 'videoprism_vision_model'
  return 'vivit'


def family_of(source: Source) -> Family:
  """Returns the family with the architecture of a model, independent of its file format."""
  return FAMILIES['image_vit' if source.kind == 'image' else MODELS[kind_of(source.model)].family]


def check_writable(source: Source, which: str) -> None:
  """Rejects a model without an equivalent Hugging Face model.

  Raises:
    CheckpointError: names the setting.
  """
  model, form, task = source.model, MODELS[which], source.task
  several = task is not None and (len(task.heads) > 1 or task.kind != 'single_label')
  refusals = {
    'an image model': source.kind == 'image',
    'a model without a head': task is None and model.pooling != 'none',
    'several heads or sigmoids': several,
  }
  for name in _VARIANT:
    held = getattr(model, name)
    known = name in form.sizes.values() or held == form.fixed.get(name, getattr(Model(), name))
    refusals[f'{name} {held!r}'] = not known
  refusals[f'pooling {model.pooling!r}'] = model.pooling not in form.poolings
  norms = form.poolings.get(model.pooling, ())
  refusals[f'final_norm {model.final_norm!r}'] = model.final_norm not in norms
  attends = model.pooling == 'attention'  # width of its pooling = width of the MLP
  wrong = model.pooler_width != (model.mlp_dim if attends else None)
  refusals[f'pooler_width {model.pooler_width!r}'] = wrong
  refusals['mlp_dim'] = 'mlp_dim' not in form.sizes.values() and model.mlp_dim != int(
    model.width * (model.mlp_dim / model.width)
  )
  for what, refused in refusals.items():
    if refused:
      raise CheckpointError(
        source.path, f"is {what}; Hugging Face's {form.says}; write safetensors instead"
      )


def write_settings(source: Source, which: str) -> dict[str, Any]:
  """Returns config.json for a model that has passed `check_writable`."""
  model, form = source.model, MODELS[which]
  labels = source.labels or [f'LABEL_{i}' for i in range(source.classes)]
  t, h, w = model.patch
  patch: dict[str, Any] = {'patch_size': h if h == w else [h, w]}
  if which in ('vivit', 'videoprism_vision_model'):
    patch = {'tubelet_size': [t, h, w]}
  elif which != 'timesformer':
    patch |= {'tubelet_size': t}
  ratio = {'mlp_ratio': model.mlp_dim / model.width} if 'mlp_ratio' in form.defaults else {}
  pools = {'num_pooler_layers': model.pooler_layers} if model.pooling == 'attention_block' else {}
  pooling = {'use_mean_pooling': model.final_norm != 'before_pooling'}
  frames, side = form.clip
  exact = form.defaults['hidden_act'] if form.defaults['hidden_act'] in _EXACT else 'gelu'
  return {
    'architectures': [form.classifier if source.task else form.encoder],
    'model_type': which,
    frames: source.frames,
    side: source.height if source.height == source.width else [source.height, source.width],
    **patch,
    form.channels: 3,
    **{theirs: getattr(model, ours) for theirs, ours in form.sizes.items()},
    **ratio,
    **pools,
    **(pooling if which == 'videomae' else {}),
    **form.must,
    'hidden_act': 'gelu_fast' if model.gelu == 'tanh' else exact,
    'hidden_dropout_prob': model.dropout,
    'attention_probs_dropout_prob': model.attention_dropout,
    form.bias: True,
    'id2label': {str(i): label for i, label in enumerate(labels)},
    'label2id': {label: i for i, label in enumerate(labels)},
    'dtype': 'float32',
  }
