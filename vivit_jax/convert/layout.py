# SPDX-License-Identifier: Apache-2.0
"""Our parameter tree as names and shapes: of a model, and what a tree tells about its model."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_jax.config import Model
from vivit_jax.convert.entries import Flat, shown
from vivit_jax.convert.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]
Grid = tuple[int, int, int]  # tokens along time, height and width
_BLOCK = re.compile(r'(spacetime|spatial|temporal)/block_([0-9]+)/(.+)', re.ASCII)


def tokens(model: Model, grid: Grid) -> dict[str, tuple[int, ...]]:
  """Returns each stage's tokens along its axes, without cls: {'spatial': (H, W), ...}."""
  time, *space = grid
  if model.attention != 'factorised_encoder':
    return {'spacetime': grid}
  temporal = {'temporal': (time,)} if model.temporal_layers else {}
  return {'spatial': (space[0], space[1]), **temporal}


def shapes(model: Model, grid: Grid, classes: int) -> Shapes:
  """Returns name -> shape of every parameter of a model.

  Args:
    model: the architecture.
    grid: tokens along time, height and width.
    classes: of the head; 0 for none.
  """
  width = model.width
  found: Shapes = {'tokenizer/kernel': (*model.patch, 3, width), 'tokenizer/bias': (width,)}
  factorised = model.attention == 'factorised_self_attention'
  for stage, axes in tokens(model, grid).items():
    cls = int(model.pooling == 'cls')
    if cls:
      found[f'{stage}/cls'] = (1, 1, width)
    found[f'{stage}/position'] = (1, int(np.prod(axes)) + cls, width)
    found |= _norm(f'{stage}/norm', width)
    for layer in range(model.temporal_layers if stage == 'temporal' else model.layers):
      block = f'{stage}/block_{layer}'
      for suffix in ('_space', '_time') if factorised else ('',):
        found |= _norm(f'{block}/attention_norm{suffix}', width)
        found |= _attention(f'{block}/attention{suffix}', width, model.heads)
      found |= _norm(f'{block}/mlp_norm', width)
      found |= _dense(f'{block}/mlp/hidden', width, model.mlp_dim)
      found |= _dense(f'{block}/mlp/out', model.mlp_dim, width)
  return found | (_dense('head', width, classes) if classes else {})


def _norm(name: str, width: int) -> Shapes:
  return {f'{name}/scale': (width,), f'{name}/bias': (width,)}


def _dense(name: str, inputs: int, outputs: int) -> Shapes:
  return {f'{name}/kernel': (inputs, outputs), f'{name}/bias': (outputs,)}


def _attention(name: str, width: int, heads: int) -> Shapes:
  split = (heads, width // heads)
  inner = {f'{name}/{part}/kernel': (width, *split) for part in ('query', 'key', 'value')}
  biases = {f'{name}/{part}/bias': split for part in ('query', 'key', 'value')}
  return inner | biases | {f'{name}/out/kernel': (*split, width), f'{name}/out/bias': (width,)}


def check_shapes(path: Path, params: Mapping[str, Any], expected: Shapes) -> None:
  """Refuses a tree that differs from `expected` in a name or a shape.

  Raises:
    CheckpointError: naming the parameters, and both sides of a mismatch.
  """
  if missing := [name for name in expected if name not in params]:
    raise CheckpointError(path, f'misses {shown(missing)} (in our names)')
  if extra := [name for name in params if name not in expected]:
    raise CheckpointError(path, f'holds {shown(extra)} (in our names) that its model lacks')
  for name, shape in expected.items():
    if params[name].shape != shape:
      raise CheckpointError(
        path, f'{name} (in our names) has shape {params[name].shape}, its model needs {shape}'
      )


def facts(path: Path, params: Flat) -> dict[str, Any]:
  """Returns what parameters of any layout tell about their model, by config.Model's names.

  `attention` and `order` are left out where the tensors do not tell them.

  Raises:
    CheckpointError: where no model of ours has such a tree.
  """
  stages = {name.partition('/')[0] for name in params} - {'tokenizer', 'head'}
  if stages not in ({'spacetime'}, {'spatial'}, {'spatial', 'temporal'}):
    raise CheckpointError(path, f'holds the transformers {sorted(stages)}, which no model has')
  main = 'spatial' if 'spatial' in stages else 'spacetime'
  kernel = _get(path, params, 'tokenizer/kernel', 5)
  if kernel.shape[3] != 3:
    raise CheckpointError(path, f'its patches have {kernel.shape[3]} channels, ours have 3')
  suffix = '_space' if f'{main}/block_0/attention_space/query/kernel' in params else ''
  query = _get(path, params, f'{main}/block_0/attention{suffix}/query/kernel', 3)
  cls = f'{main}/cls' in params
  found = {
    'layers': _layers(path, params, main),
    'width': kernel.shape[4],
    'mlp_dim': _get(path, params, f'{main}/block_0/mlp/hidden/kernel', 2).shape[1],
    'heads': query.shape[1],
    'patch': kernel.shape[:3],
    'pooling': 'cls' if cls else 'mean',
  }
  if main == 'spatial':
    found['attention'] = 'factorised_encoder'
    found['temporal_layers'] = _layers(path, params, 'temporal') if len(stages) == 2 else 0
  elif suffix:
    found['attention'] = 'factorised_self_attention'
  elif cls:
    found['attention'] = 'spatio_temporal'
  return found


def positions(path: Path, params: Flat) -> dict[str, int]:
  """Returns the number of tokens per stage, without cls."""
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
  """Returns how many blocks a stage has; counted, so that no number in a name is trusted."""
  matches = [match for name in names if (match := _BLOCK.fullmatch(name)) and match[1] == stage]
  numbers = sorted({int(match[2]) for match in matches})
  if not numbers or numbers != list(range(len(numbers))):
    raise CheckpointError(path, f'the blocks of {stage} are numbered {numbers[:20]}, not 0, 1, ...')
  return len(numbers)
