# SPDX-License-Identifier: Apache-2.0
"""Loads Scenic's checkpoints: the four ViViT models, and the image ViT of its baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config.clip import HALF, Preprocessing
from vivit_jax.config.schema import CheckpointFacts, Task
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.weights import rename
from vivit_jax.weights.names import SCENIC
from vivit_jax.weights.readers import Checkpoint, side_car
from vivit_jax.weights.resolve import CHOICES, build, checked_task
from vivit_jax.weights.source import Source

# Prefixes of the parameters in a train state; '' for a bare parameter tree.
PREFIXES = ('optimizer/target/params/', 'optimizer/target/', 'params/params/', 'params/', '')
_ATTENTION = {
  'spacetime': 'spatio_temporal',
  'factorized_encoder': 'factorised_encoder',
  'factorized_self_attention_block': 'factorised_self_attention',
  'factorized_dot_product_attention': 'factorised_dot_product',
}
_POOLING = {'token': 'cls', 'gap': 'mean'}
_TOKENIZER = {'3d_conv': 'tubelet', 'temporal_sampling': 'uniform_frame_sampling'}
_SIZES = {'num_layers': 'layers', 'num_heads': 'heads', 'mlp_dim': 'mlp_dim'}
_TUBELET = {
  'central_frame_initializer': 'central_frame',
  'average_frame_initializer': 'inflation',
  'random_initializer': 'random',
}


def prefix(checkpoint: Checkpoint) -> str | None:
  """Returns the prefix of the parameters in a Scenic state, or None if it is not one."""
  for start in PREFIXES:
    if f'{start}embedding/kernel' in checkpoint.entries:
      return start
  return None


def load(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads a Scenic ViViT or image ViT.

  NAME.json beside NAME.msgpack may have the experiment's config in Scenic's form: `model`, and
  `dataset_configs` with the clip, the stride, the value range and the heads.

  Raises:
    CheckpointError: the checkpoint is not supported, or settings are missing.
  """
  path, start = checkpoint.path, prefix(checkpoint)
  if start is None:
    raise CheckpointError(path, 'is not a Scenic state: it has no embedding/kernel')
  names = [name for name in checkpoint.entries if name.startswith(start)]
  rules, unused = rename.plan(path, [n.removeprefix(start) for n in names], SCENIC, hints.head)
  config = side_car(path)
  said = _read_config(path, config)
  flat = len(checkpoint.entries[f'{start}embedding/kernel'].shape) == 4
  tokenizer = hints.tokenizer or said.get('tokenizer') or (None if flat else 'tubelet')
  if tokenizer is None:
    raise CheckpointError(
      path, f'the tensors do not determine these, so give them: tokenizer: {CHOICES["tokenizer"]}'
    )
  if flat == (tokenizer == 'tubelet'):
    raise CheckpointError(
      path, f'has {2 if flat else 3}D patches, which tokenizer={tokenizer!r} cannot have'
    )
  image = tokenizer == 'image'
  said['tokenizer'] = 'tubelet' if image else tokenizer
  if image:
    said['attention'] = 'spatio_temporal'
  arrays = checkpoint.load(start + name for name in rules)
  arrays = {name.removeprefix(start): array for name, array in arrays.items()}
  others = [name for name in checkpoint.entries if not name.startswith(start)]
  return build(
    path,
    'Scenic image ViT' if image else 'Scenic ViViT',
    rename.apply(path, arrays, rules, heads=1),
    said,
    hints,
    image=image,
    task=_task(path, config) if hints.head else None,
    preprocessing=_preprocessing(path, config),
    unused=unused | dict.fromkeys(others, 'training state, not parameters'),
  )


def _read_config(path: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
  """Returns the settings of a Scenic config under our names, with Scenic's GELU and epsilon."""
  said: dict[str, Any] = {'gelu': 'tanh', 'norm_epsilon': 1e-6}
  if config is None:
    return said
  model = _section(path, config, 'model')
  attention = _section(path, model, 'attention_config')
  encoding = _section(path, model, 'temporal_encoding_config')
  data = _section(path, config, 'dataset_configs')
  if not encoding and not attention:
    said['tokenizer'] = 'image'  # Scenic's image ViT has neither section
  elif 'method' in encoding:
    said['tokenizer'] = _choice(path, 'temporal_encoding_config.method', encoding, _TOKENIZER)
    said['sampled_frames'] = encoding.get('n_sampled_frames')
  if 'type' in attention:
    said['attention'] = _choice(path, 'attention_config.type', attention, _ATTENTION)
  if said.get('attention') == 'factorised_self_attention':
    said['order'] = attention.get('attention_order', 'time_space')  # Scenic's own default
  if 'classifier' in model:
    said['pooling'] = _choice(path, 'model.classifier', model, _POOLING)
  if 'kernel_init_method' in encoding:
    said['tubelet_init'] = _TUBELET.get(str(encoding['kernel_init_method']))
  said['width'] = model.get('hidden_size')
  if said.get('attention') == 'factorised_encoder':
    model = _section(path, model, 'spatial_transformer') or model
  said |= {ours: model.get(theirs) for theirs, ours in _SIZES.items()}
  size, frames = data.get('crop_size'), data.get('num_frames')
  if said.get('tokenizer') == 'image':
    return said
  return said | {'clip.frames': frames, 'clip.height': size, 'clip.width': size}


def _preprocessing(path: Path, config: Mapping[str, Any] | None) -> Preprocessing:
  """Returns Scenic's preprocessing: pixels in [-1, 1], or [0, 1] if zero_centering is off."""
  data = _section(path, config or {}, 'dataset_configs')
  centered = data.get('zero_centering', True)
  mean, std = (HALF, HALF) if centered else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
  stride, short = data.get('stride'), data.get('min_resize')
  if any(value is not None and type(value) is not int for value in (stride, short)):
    raise CheckpointError(path, f'its side-car has stride={stride!r}, min_resize={short!r}')
  return Preprocessing(mean, std, stride=stride, short_side=short)


def _task(path: Path, config: Mapping[str, Any] | None) -> Task | None:
  """Returns the task of a config with several heads (Epic Kitchens: class_splits, split_names)."""
  data = _section(path, config or {}, 'dataset_configs')
  classes, heads = data.get('class_splits'), data.get('split_names')
  if classes is None:
    return None
  if not isinstance(classes, list) or not isinstance(heads, list) or len(classes) != len(heads):
    raise CheckpointError(path, f'its side-car has class_splits={classes!r}, split_names={heads!r}')
  return checked_task(path, {'heads': heads, 'classes': classes})


def _section(path: Path, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  section = config.get(name) or {}
  if not isinstance(section, dict):
    raise CheckpointError(path, f'its side-car has {name}={section!r}, not a section')
  return section


def _choice(path: Path, name: str, section: Mapping[str, Any], known: Mapping[str, str]) -> str:
  value = section[name.rpartition('.')[2]]
  if not isinstance(value, str) or value not in known:
    raise CheckpointError(
      path, f'its side-car has {name}={value!r}, supported are {and_more(map(repr, known))}'
    )
  return known[value]
