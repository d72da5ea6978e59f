# SPDX-License-Identifier: Apache-2.0
"""Loads image ViTs of AugReg (npz) and timm (also DeiT) as video models of one frame."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vivit_jax.config.clip import Preprocessing
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError
from vivit_jax.weights import normalization, rename
from vivit_jax.weights.names import AUGREG, LAYER_SCALE, TIMM
from vivit_jax.weights.readers import Checkpoint, Flat, read_json
from vivit_jax.weights.resolve import CHOICES, build
from vivit_jax.weights.source import Source


def is_augreg(checkpoint: Checkpoint) -> bool:
  """Returns whether the names are those of the published AugReg files."""
  return 'Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel' in checkpoint.entries


def is_timm(checkpoint: Checkpoint) -> bool:
  """Returns whether the names are those of timm's VisionTransformer, which DeiT also uses."""
  return 'patch_embed.proj.weight' in checkpoint.entries


def load_augreg(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads an image ViT from an AugReg npz, with the GELU, epsilon and value range of its code.

  Raises:
    CheckpointError: the model is not supported, or its positions are not square.
  """
  path = checkpoint.path
  rules, unused = rename.plan(path, checkpoint.entries, AUGREG, hints.head)
  params = rename.apply(path, checkpoint.load(rules), rules, heads=1)
  said = {'gelu': 'tanh', 'norm_epsilon': 1e-6, 'attention': 'spatio_temporal'}
  return build(path, AUGREG.name, params, said, hints, image=True, unused=unused)


def load_timm(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads an image ViT with timm's names; splits fused qkv and folds in layer scale, if any.

  timm files do not have heads, GELU and epsilon (and the value range only if there is a
  config.json), so the caller must supply them. If the cls token has no position, it gets zeros.

  Raises:
    CheckpointError: the model is not supported, or settings are missing.
  """
  path = checkpoint.path
  rules, unused = rename.plan(path, checkpoint.entries, TIMM, hints.head)
  config = _read_config(checkpoint)
  if (pooling := config.get('global_pool')) not in (None, 'token', 'avg'):
    raise CheckpointError(path, f'pools by {pooling!r}, supported are cls and mean')
  if (pooling == 'avg') and 'cls_token' in checkpoint.entries and hints.head:
    raise CheckpointError(path, 'has both a cls token and mean pooling, which is not supported')
  missing = [f'{name}: {CHOICES[name]}' for name in _FOREIGN if getattr(hints, name) is None]
  if missing:
    raise CheckpointError(
      path, 'the tensors do not determine these, so give them: ' + '; '.join(missing)
    )
  assert hints.heads is not None
  if hints.heads < 1:
    raise CheckpointError(path, f'heads={hints.heads} must be positive')
  params = rename.apply(path, checkpoint.load(rules), rules, hints.heads)
  params |= rename.zero_biases(params)
  params = _fold_layer_scale(checkpoint, params)
  params = _with_cls_position(params, hints)
  return build(
    path,
    TIMM.name,
    params,
    {'attention': 'spatio_temporal'},
    hints,
    image=True,
    preprocessing=_preprocessing(checkpoint, config),
    unused=unused,
  )


_FOREIGN = ('heads', 'gelu', 'norm_epsilon')


def _read_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
  """Returns timm's config.json beside the file, or {} if there is none."""
  beside = checkpoint.path.parent / 'config.json'
  config = read_json(beside) if beside.is_file() else {}
  return config if 'pretrained_cfg' in config else {}


def _preprocessing(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Preprocessing:
  details = config.get('pretrained_cfg')
  if not isinstance(details, dict) or 'mean' not in details or 'std' not in details:
    return Preprocessing(None, None)
  beside = checkpoint.path.parent / 'config.json'
  return Preprocessing(*normalization.fed(beside, 1 / 255, 0.0, details['mean'], details['std']))


def _fold_layer_scale(checkpoint: Checkpoint, params: Flat) -> Flat:
  """Returns the parameters without layer scale: gamma * (x W + b) is x (W gamma) + b gamma."""
  for name in [name for name in params if name.endswith(LAYER_SCALE)]:
    gamma, layer = params.pop(name), name.removesuffix(f'/{LAYER_SCALE}')
    for leaf in ('kernel', 'bias'):
      array = params.get(f'{layer}/{leaf}')
      if array is None or gamma.ndim != 1 or array.shape[-1] != gamma.size:
        raise CheckpointError(checkpoint.path, f'{name} does not fit {layer}/{leaf} (in our names)')
      params[f'{layer}/{leaf}'] = array * gamma
  return params


def _with_cls_position(params: Flat, hints: CheckpointFacts) -> Flat:
  """Adds a zero position for a cls token that has none (timm's no_embed_class).

  Such a file has one position per patch: a square number, or the number for the caller's size.
  """
  position, kernel = params.get('spacetime/position'), params.get('tokenizer/kernel')
  if position is None or kernel is None or position.ndim != 3 or 'spacetime/cls' not in params:
    return params
  count = position.shape[1]
  patches = math.isqrt(count) ** 2
  if hints.height and hints.width and kernel.ndim == 5:
    patches = (hints.height // kernel.shape[1]) * (hints.width // kernel.shape[2])
  if count != patches:
    return params
  zero = np.zeros((1, 1, position.shape[2]), position.dtype)
  return params | {'spacetime/position': np.concatenate([zero, position], axis=1)}
