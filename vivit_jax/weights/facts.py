# SPDX-License-Identifier: Apache-2.0
"""Infers model settings from a parameter tree with this package's names."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vivit_jax.errors import CheckpointError
from vivit_jax.weights.readers import Flat

_BLOCK = re.compile(r'(spacetime|spatial|temporal|pooler)/block_([0-9]+)/(.+)', re.ASCII)


class Either(tuple[Any, ...]):
  """Values of a setting that tensors cannot distinguish; the first one is the default."""

  __slots__ = ()


def facts(path: Path, params: Flat) -> dict[str, Any]:
  """Returns the settings that the parameters determine, by the names of config.Model.

  `attention` and `order` are omitted if the tensors do not determine them.

  Raises:
    CheckpointError: no model of this package has such a tree.
  """
  stages = {name.partition('/')[0] for name in params} - {'tokenizer', 'head', 'pooler'}
  if stages not in ({'spacetime'}, {'spatial'}, {'spatial', 'temporal'}):
    raise CheckpointError(path, f'holds the transformers {sorted(stages)}, which no model has')
  main = 'spatial' if 'spatial' in stages else 'spacetime'
  kernel = _get(path, params, 'tokenizer/kernel', 5)
  if kernel.shape[3] != 3:
    raise CheckpointError(path, f'its patches have {kernel.shape[3]} channels, need 3')
  suffix = '_space' if f'{main}/block_0/attention_space/query/kernel' in params else ''
  query = _get(path, params, f'{main}/block_0/attention{suffix}/query/kernel', 3)
  cls = f'{main}/cls' in params
  found = {
    'layers': _layers(path, params, main),
    'width': kernel.shape[4],
    'mlp_dim': _get(path, params, f'{main}/block_0/mlp/hidden/kernel', 2).shape[1],
    'heads': query.shape[1],
    'patch': kernel.shape[:3],
    'key_bias': f'{main}/block_0/attention{suffix}/key/bias' in params,
    'time_dense': f'{main}/block_0/time_dense/kernel' in params,
    **_pooling(path, params, f'{main}/cls', suffix),
    **_positions_and_norm(params, main),
  }
  if main == 'spatial':
    found['attention'] = 'factorised_encoder'
    if not cls and len(stages) == 2:
      found['attention'] = Either(('factorised_encoder', 'factorised_encoder_by_patch'))
    found['temporal_layers'] = _layers(path, params, 'temporal') if len(stages) == 2 else 0
  elif suffix:
    found['attention'] = 'factorised_self_attention'
  elif cls:
    found['attention'] = 'spatio_temporal'
  return found


def _pooling(path: Path, params: Flat, cls: str, suffix: str) -> dict[str, Any]:
  query = 'pooler/attention/query/kernel'
  if query not in params:
    tokens = 'shared_cls' if suffix else 'cls'
    return {'pooling': tokens if cls in params else Either(('mean', 'none'))}
  width, heads, dim = _get(path, params, query, 3).shape
  blocks = any(name.startswith('pooler/block_') for name in params)
  return {
    'pooling': 'attention' if 'pooler/attention/scale' in params else 'attention_block',
    'pooler_width': None if heads * dim == width else heads * dim,
    'pooler_layers': _layers(path, params, 'pooler') if blocks else 0,
  }


def _positions_and_norm(params: Flat, main: str) -> dict[str, Any]:
  fixed: Any = Either(('sincos', 'rotary_tiled', 'rotary_interleaved'))
  if f'{main}/position' in params:
    fixed = 'separable' if f'{main}/time_position' in params else 'learned'
  elif main != 'spacetime':
    fixed = 'learned'
  norm = Either(('before_pooling', 'after_pooling')) if f'{main}/norm/scale' in params else 'none'
  return {'positions': fixed, 'final_norm': norm}


def positions(path: Path, params: Flat) -> dict[str, int]:
  """Returns the number of positions per stage, without cls.

  Separate spatial and temporal positions count as those of a spatial and a temporal stage.
  """
  if 'spacetime/time_position' in params:
    space = _get(path, params, 'spacetime/position', 3).shape[1] - ('spacetime/cls' in params)
    return {'spatial': space, 'temporal': _get(path, params, 'spacetime/time_position', 3).shape[1]}
  return {
    name.partition('/')[0]: _get(path, params, name, 3).shape[1]
    - (name.replace('position', 'cls') in params)
    for name in params
    if name.endswith('/position')
  }


def _get(path: Path, params: Flat, name: str, dimensions: int) -> np.ndarray:
  if name not in params or params[name].ndim != dimensions:
    held = f'has shape {params[name].shape}' if name in params else 'is missing'
    raise CheckpointError(path, f'{name} (in our names) {held}, need {dimensions} dimensions')
  return params[name]


def _layers(path: Path, names: Iterable[str], stage: str) -> int:
  """Returns the number of blocks in a stage; names are counted and must be consecutive."""
  matches = [match for name in names if (match := _BLOCK.fullmatch(name)) and match[1] == stage]
  numbers = sorted({int(match[2]) for match in matches})
  if not numbers or numbers != list(range(len(numbers))):
    raise CheckpointError(path, f'the blocks of {stage} are numbered {numbers[:20]}, not 0, 1, ...')
  return len(numbers)
