# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: ViViT in and out, and the image ViT in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.files import replace_file
from vivit_jax.weights import rename
from vivit_jax.weights.export import write_tensors
from vivit_jax.weights.names import HUGGINGFACE_VIT, HUGGINGFACE_VIVIT
from vivit_jax.weights.processor import PREPROCESSOR, processor_config, read_processor
from vivit_jax.weights.readers import Checkpoint, read_json
from vivit_jax.weights.resolve import build
from vivit_jax.weights.source import Source

# transformers.activations: three names of the tanh approximation, and the exact GELU.
_GELU = {'gelu': 'exact', 'gelu_fast': 'tanh', 'gelu_new': 'tanh', 'gelu_pytorch_tanh': 'tanh'}
_SIZES = {
  'hidden_size': 'width',
  'num_hidden_layers': 'layers',
  'num_attention_heads': 'heads',
  'intermediate_size': 'mlp_dim',
  'layer_norm_eps': 'norm_epsilon',
}
# What transformers assumes where config.json leaves a setting out.
_DEFAULTS = {
  'vivit': {'hidden_act': 'gelu_fast', 'layer_norm_eps': 1e-6, 'num_channels': 3, 'qkv_bias': True},
  'vit': {'hidden_act': 'gelu', 'layer_norm_eps': 1e-12, 'num_channels': 3, 'qkv_bias': True},
}


def kind(checkpoint: Checkpoint) -> Literal['vivit', 'vit'] | None:
  """Returns which Hugging Face model the names belong to, or None; the base models too."""
  for name, entry in checkpoint.entries.items():
    if name.endswith('embeddings.patch_embeddings.projection.weight'):
      return 'vivit' if len(entry.shape) == 5 else 'vit'
  return None


def load(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Returns a Hugging Face ViViT or image ViT, with config.json from its folder.

  Raises:
    CheckpointError: without config.json, and where the model is none of ours.
  """
  path, which = checkpoint.path, kind(checkpoint)
  beside = path.parent / 'config.json'
  if which is None:
    raise CheckpointError(path, 'is no Hugging Face ViT or ViViT')
  if not beside.is_file():
    raise CheckpointError(path, 'needs config.json beside it: heads, GELU and epsilon stand there')
  config = _DEFAULTS[which] | read_json(beside)
  if config.get('model_type', which) != which:
    raise CheckpointError(
      beside, f'model_type is {config["model_type"]!r}, the tensors say {which}'
    )
  table = HUGGINGFACE_VIVIT if which == 'vivit' else HUGGINGFACE_VIT
  names = _with_prefix(checkpoint, which)
  rules, unused = rename.plan(path, names, table, hints.head)
  said = _read_config(beside, config)
  heads = said['heads']
  if type(heads) is not int or heads < 1:
    raise CheckpointError(beside, f'num_attention_heads is {heads!r}')
  arrays = checkpoint.load(names[name] for name in rules)
  arrays = {name: arrays[names[name]] for name in rules}
  params = rename.apply(path, arrays, rules, heads)
  if not config['qkv_bias']:
    biases = [n for n in params if n.endswith(('/query/bias', '/key/bias', '/value/bias'))]
    if biases:
      raise CheckpointError(
        beside,
        f'qkv_bias is {config["qkv_bias"]!r}, but the tensors have '
        f'{and_more(map(repr, biases), 1)}',
      )
    params |= rename.zero_biases(params)
  size = said['clip.height'], said['clip.width']
  crop = size if all(type(side) is int for side in size) else None
  family = 'vivit' if which == 'vivit' else 'image_vit'
  preprocessing, notes = read_processor(path.parent, family, crop, hints)
  return build(
    path,
    table.name,
    params,
    said,
    hints,
    image=which == 'vit',
    labels=_labels(config) if hints.head else None,
    preprocessing=preprocessing,
    unused=unused,
    notes=notes,
  )


def write(source: Source, folder: str | Path) -> None:
  """Writes config.json, preprocessor_config.json and model.safetensors for transformers.

  The tensors are bitwise those of `source` in PyTorch's layout. The processor's config maps pixels
  to the range that the weights were trained on, unlike the one of Google's folders.

  Args:
    source: spatio_temporal with a cls token, tubelets and a head.
    folder: made if missing; existing files of these names are replaced.

  Raises:
    CheckpointError: where Hugging Face's ViViT cannot compute this model.
  """
  folder, model = Path(folder), source.model
  refusals = {
    'an image model': source.kind == 'image',
    f'attention {model.attention!r}': model.attention != 'spatio_temporal',
    f'pooling {model.pooling!r}': model.pooling != 'cls',
    f'tokenizer {model.tokenizer!r}': model.tokenizer != 'tubelet',
    'a model without a head': source.task is None,
    'several heads or sigmoids': source.task is not None
    and (len(source.task.heads) > 1 or source.task.kind != 'single_label'),
  }
  for what, refused in refusals.items():
    if refused:
      raise CheckpointError(
        source.path,
        f"is {what}; Hugging Face's ViViT is spatio_temporal with a cls token, tubelets and one "
        'softmax head; write safetensors instead',
      )
  folder.mkdir(parents=True, exist_ok=True)
  _write_json(folder / 'config.json', _config(source))
  if (processor := processor_config(source)) is not None:
    _write_json(folder / PREPROCESSOR, processor)
  tensors = rename.invert(source.params, HUGGINGFACE_VIVIT)
  write_tensors(folder / 'model.safetensors', tensors, {'format': 'pt'})


def _with_prefix(checkpoint: Checkpoint, which: str) -> dict[str, str]:
  """Returns name with the model's prefix -> name in the file; base models are saved without."""
  start = f'{which}.'
  if any(name.startswith(start) for name in checkpoint.entries):
    return {name: name for name in checkpoint.entries}
  return {start + name: name for name in checkpoint.entries}


def _read_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
  activation = config['hidden_act']
  if not isinstance(activation, str) or activation not in _GELU:
    raise CheckpointError(path, f'hidden_act is {activation!r}, ours have {", ".join(_GELU)}')
  if config['num_channels'] != 3:
    raise CheckpointError(path, f'num_channels is {config["num_channels"]!r}, ours have 3')
  said = {ours: config.get(theirs) for theirs, ours in _SIZES.items()} | {'patch': _patch(config)}
  size = config.get('image_size')
  high, wide = size if isinstance(size, list) and len(size) == 2 else (size, size)
  clip = {'clip.frames': config.get('num_frames'), 'clip.height': high, 'clip.width': wide}
  return said | clip | {'gelu': _GELU[activation], 'attention': 'spatio_temporal'}


def _patch(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
  """Returns (t, h, w) as config.json says; None where it does not."""
  if 'tubelet_size' in config:
    size = config['tubelet_size']
    return tuple(size) if isinstance(size, list) else (size,)
  size = config.get('patch_size')
  return None if size is None else (1, *(size if isinstance(size, list) else (size, size)))


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
  """Returns the classes' names; None where they are the placeholders LABEL_0, LABEL_1, ..."""
  table = config.get('id2label')
  if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
    return None
  names = [table.get(str(i)) for i in range(len(table))]
  if None in names or all(name == f'LABEL_{i}' for i, name in enumerate(names)):
    return None
  return tuple(name for name in names if name is not None)


def _config(source: Source) -> dict[str, Any]:
  model = source.model
  labels = source.labels or [f'LABEL_{i}' for i in range(source.classes)]
  return {
    'architectures': ['VivitForVideoClassification'],
    'model_type': 'vivit',
    'num_frames': source.frames,
    'image_size': source.height if source.height == source.width else [source.height, source.width],
    'tubelet_size': list(model.patch),
    'num_channels': 3,
    'hidden_size': model.width,
    'num_hidden_layers': model.layers,
    'num_attention_heads': model.heads,
    'intermediate_size': model.mlp_dim,
    'hidden_act': 'gelu_fast' if model.gelu == 'tanh' else 'gelu',
    'layer_norm_eps': model.norm_epsilon,
    'hidden_dropout_prob': model.dropout,
    'attention_probs_dropout_prob': model.attention_dropout,
    'qkv_bias': True,
    'id2label': {str(i): label for i, label in enumerate(labels)},
    'label2id': {label: i for i, label in enumerate(labels)},
    'dtype': 'float32',
  }


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
  replace_file(path, (json.dumps(tree, indent=2) + '\n').encode())
