# SPDX-License-Identifier: Apache-2.0
"""Reads Hugging Face folders of video models and the image ViT, and writes video models."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.files import replace_file
from vivit_jax.weights import rename
from vivit_jax.weights.export import write_tensors
from vivit_jax.weights.families import FAMILIES
from vivit_jax.weights.huggingface_config import (
  check_writable,
  kind_of,
  read_settings,
  write_settings,
)
from vivit_jax.weights.huggingface_models import MODELS, HuggingFaceModel
from vivit_jax.weights.names_encoders import HUGGINGFACE_VIDEOMAE_DECODER, PRETRAINING
from vivit_jax.weights.processor import PREPROCESSOR, processor_config, read_processor
from vivit_jax.weights.readers import Checkpoint, Flat, read_json
from vivit_jax.weights.resolve import build
from vivit_jax.weights.source import Source


def kind(checkpoint: Checkpoint) -> str | None:
  """Returns the key of MODELS for the parameter names, including base models, or None."""
  entries = checkpoint.entries
  for name, model in MODELS.items():
    if any(entry.startswith(f'{model.prefix}.') for entry in entries):
      return name
  for name, entry in entries.items():
    if name.endswith('embeddings.patch_embeddings.proj.weight'):
      return 'vjepa2'
    if not name.endswith('embeddings.patch_embeddings.projection.weight'):
      continue
    start = name.removesuffix('patch_embeddings.projection.weight')
    if start.endswith('spatial_embeddings.'):
      return 'videoprism_vision_model'
    if len(entry.shape) == 4:
      return 'timesformer' if f'{start}time_embeddings' in entries else 'vit'
    return 'vivit' if f'{start}cls_token' in entries else 'videomae'
  return None


def load(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads a Hugging Face model of MODELS, with config.json from its folder.

  Raises:
    CheckpointError: config.json is missing, or the model is not supported.
  """
  path, which = checkpoint.path, kind(checkpoint)
  beside = path.parent / 'config.json'
  if which is None:
    raise CheckpointError(path, 'is not a supported Hugging Face model')
  if not beside.is_file():
    raise CheckpointError(path, 'needs config.json beside it, which has heads, GELU and epsilon')
  form = MODELS[which]
  config = {form.channels: 3, form.bias: True, **form.defaults, **read_json(beside)}
  if config.get('model_type', which) != which:
    raise CheckpointError(
      beside, f'model_type is {config["model_type"]!r}, but the tensors are of {which}'
    )
  names = _with_prefix(checkpoint, form.prefix)
  rules, unused = rename.plan(path, names, form.table, hints.head)
  said = read_settings(beside, which, config, names)
  heads = said['heads']
  if type(heads) is not int or heads < 1:
    raise CheckpointError(beside, f'num_attention_heads is {heads!r}')
  params = rename.apply(path, _arrays(checkpoint, rules, names), rules, heads)
  if not config[form.bias]:
    params |= _without_bias(beside, form, config, params)
  size = said['clip.height'], said['clip.width']
  crop = size if all(type(side) is int for side in size) else None
  preprocessing, notes = read_processor(path.parent, form.family, crop, hints)
  notice = FAMILIES[form.family].notice
  source = build(
    path,
    form.table.name,
    params,
    said,
    hints,
    image=which == 'vit',
    labels=_labels(config) if hints.head and 'head/kernel' in params else None,
    preprocessing=preprocessing,
    unused=unused,
    notes=notes + ((notice,) if notice else ()),
  )
  return dataclasses.replace(source, decoder=_decoder(checkpoint, beside, config, unused))


def _arrays(checkpoint: Checkpoint, rules: rename.Plan, names: Mapping[str, str]) -> Flat:
  """Returns the arrays that rules take, of which the file may have other names."""
  arrays = checkpoint.load(names[name] for name in rules)
  return {name: arrays[names[name]] for name in rules}


def _decoder(
  checkpoint: Checkpoint, beside: Path, config: Mapping[str, Any], unused: Mapping[str, str]
) -> Flat:
  """Returns the decoder of a checkpoint of VideoMAE's pretraining; nothing of any other."""
  names = {name: name for name, reason in unused.items() if reason == PRETRAINING}
  if not names:
    return {}
  heads = config.get('decoder_num_attention_heads')
  if type(heads) is not int or heads < 1:
    raise CheckpointError(beside, f'decoder_num_attention_heads is {heads!r}')
  path = checkpoint.path
  rules, _ = rename.plan(path, names, HUGGINGFACE_VIDEOMAE_DECODER)
  return rename.apply(path, _arrays(checkpoint, rules, names), rules, heads)


def _without_bias(
  path: Path, form: HuggingFaceModel, config: Mapping[str, Any], params: Flat
) -> Flat:
  """Returns zeros for biases that the model does not have according to config.json."""
  biases = [n for n in params if n.endswith(('/query/bias', '/key/bias', '/value/bias'))]
  if biases:
    raise CheckpointError(
      path,
      f'{form.bias} is {config[form.bias]!r}, but the tensors have '
      f'{and_more(map(repr, biases), 1)}',
    )
  zeros = rename.zero_biases(params)
  if form.fixed.get('key_bias', True):
    return zeros
  return {name: array for name, array in zeros.items() if not name.endswith('/key/bias')}


def write(source: Source, folder: str | Path) -> None:
  """Writes config.json, preprocessor_config.json and model.safetensors for transformers.

  The tensors are those of `source` in PyTorch's layout, bitwise equal except for the scales of
  VideoPrism's norms, which are stored minus 1. The processor's config maps pixels to the range on
  which the weights were trained, unlike the one in Google's folders.

  Args:
    source: a model with an equivalent Hugging Face model, see huggingface_models.
    folder: created if missing; existing files of these names are replaced.

  Raises:
    CheckpointError: there is no equivalent Hugging Face model.
  """
  folder, which = Path(folder), kind_of(source.model)
  check_writable(source, which)
  form = MODELS[which]
  folder.mkdir(parents=True, exist_ok=True)
  _write_json(folder / 'config.json', write_settings(source, which))
  if (processor := processor_config(source, form.family)) is not None:
    _write_json(folder / PREPROCESSOR, processor)
  tensors = rename.invert(source.params, form.table)
  if source.task is None:  # base models are saved without the prefix
    tensors = {name.removeprefix(f'{form.prefix}.'): array for name, array in tensors.items()}
  if source.model.final_norm == 'before_pooling' and which == 'videomae':
    tensors = {name.replace('fc_norm.', 'layernorm.'): a for name, a in tensors.items()}
  write_tensors(folder / 'model.safetensors', tensors, {'format': 'pt'})


def _with_prefix(checkpoint: Checkpoint, prefix: str) -> dict[str, str]:
  """Maps names with the model's prefix to names in the file; base models have no prefix there."""
  start = f'{prefix}.'
  if any(name.startswith(start) for name in checkpoint.entries):
    return {name: name for name in checkpoint.entries}
  return {start + name: name for name in checkpoint.entries}


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
  """Returns the class names, or None if they are the placeholders LABEL_0, LABEL_1, ..."""
  table = config.get('id2label')
  if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
    return None
  names = [table.get(str(i)) for i in range(len(table))]
  if None in names or all(name == f'LABEL_{i}' for i, name in enumerate(names)):
    return None
  return tuple(name for name in names if name is not None)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
  replace_file(path, (json.dumps(tree, indent=2) + '\n').encode())
