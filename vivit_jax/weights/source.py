# SPDX-License-Identifier: Apache-2.0
"""A checkpoint read: our parameters, the model they belong to, and what it expects of a clip.

`shapes` gives the names and shapes of a model's parameters; `facts` is what a tree tells of its
model.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import traverse_util

from vivit_jax.config.augment import LARGEST, Triple
from vivit_jax.config.schema import CheckpointFacts, Clip, Model, Task
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights.readers import Flat

Shapes = dict[str, tuple[int, ...]]
Grid = tuple[int, int, int]  # tokens along time, height and width
_BLOCK = re.compile(r'(spacetime|spatial|temporal|pooler)/block_([0-9]+)/(.+)', re.ASCII)


def tokens(model: Model, grid: Grid) -> dict[str, tuple[int, ...]]:
  """Returns each stage's positions along their axes, without cls: {'spatial': (H, W), ...}."""
  time, *space = grid
  if model.positions == 'separable':
    return {'spacetime': (space[0], space[1]), 'spacetime/time': (time,)}
  if not model.attention.startswith('factorised_encoder'):
    return {'spacetime': grid}
  temporal = {'temporal': (time,)} if model.temporal_layers else {}
  return {'spatial': (space[0], space[1]), **temporal}


@functools.lru_cache(maxsize=32)
def shapes(model: Model, grid: Grid, classes: int) -> Shapes:
  """Returns name -> shape of every parameter of a model, as the model itself says.

  One block of each stage is traced and stands for all of them: tracing 24 takes a second.

  Args:
    model: the architecture.
    grid: tokens along time, height and width.
    classes: of the head; 0 for none.
  """
  one = dataclasses.replace(
    model,
    layers=1,
    temporal_layers=min(model.temporal_layers, 1),
    pooler_layers=min(model.pooler_layers, 1),
    drop_path=0.0,
    attention_kernel='plain',
  )
  frames, height, width = (n * size for n, size in zip(grid, model.patch, strict=True))
  clip = Clip(frames=frames, height=height, width=width)
  tree = traverse_util.flatten_dict(abstract_params(ViViT(one, classes), clip), sep='/')
  found: Shapes = {}
  depths = {'temporal': model.temporal_layers, 'pooler': model.pooler_layers}
  for name, leaf in tree.items():
    layers = depths.get(name.partition('/')[0], model.layers)
    for layer in range(layers if '/block_0/' in name else 1):
      found[name.replace('/block_0/', f'/block_{layer}/')] = leaf.shape
  return found


def check_shapes(path: Path, params: Mapping[str, Any], expected: Shapes) -> None:
  """Refuses a tree that differs from `expected` in a name or a shape.

  Raises:
    CheckpointError: naming the parameters, and both sides of a mismatch.
  """
  if missing := [name for name in expected if name not in params]:
    raise CheckpointError(path, f'misses {and_more(map(repr, missing))} (in our names)')
  if extra := [name for name in params if name not in expected]:
    raise CheckpointError(
      path, f'holds {and_more(map(repr, extra))} (in our names) that its model lacks'
    )
  for name, shape in expected.items():
    if params[name].shape != shape:
      raise CheckpointError(
        path, f'{name} (in our names) has shape {params[name].shape}, its model needs {shape}'
      )


class Either(tuple[Any, ...]):
  """Values of a setting that tensors cannot tell apart; the first where nothing else tells."""

  __slots__ = ()


def facts(path: Path, params: Flat) -> dict[str, Any]:
  """Returns what parameters of any layout tell about their model, by config.Model's names.

  `attention` and `order` are left out where the tensors do not tell them.

  Raises:
    CheckpointError: where no model of ours has such a tree.
  """
  stages = {name.partition('/')[0] for name in params} - {'tokenizer', 'head', 'pooler'}
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
  """Returns the number of tokens per stage, without cls.

  Positions of place and time apart are those of a spatial and a temporal stage.
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
  """Returns how many blocks a stage has; counted, so that no number in a name is trusted."""
  matches = [match for name in names if (match := _BLOCK.fullmatch(name)) and match[1] == stage]
  numbers = sorted({int(match[2]) for match in matches})
  if not numbers or numbers != list(range(len(numbers))):
    raise CheckpointError(path, f'the blocks of {stage} are numbered {numbers[:20]}, not 0, 1, ...')
  return len(numbers)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What the weights expect of a video; None where the source does not say.

  Attributes:
    low, high: what a pixel of 0 and of 255 becomes, per channel.
    channels: their order.
    stride: between the frames of a clip.
    short_side: pixels to which the shorter side is resized before the crop; see Source.short_side.
    stride_seconds, sampling: instead of `stride`, as in config.Clip.
  """

  low: Triple | None = (-1.0, -1.0, -1.0)
  high: Triple | None = (1.0, 1.0, 1.0)
  channels: Literal['rgb', 'bgr'] = 'rgb'
  stride: int | None = None
  short_side: int | None = None
  stride_seconds: float | None = None
  sampling: Literal['stride', 'whole_video'] = 'stride'


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint in our terms.

  Attributes:
    path: where it came from.
    format: e.g. 'Scenic'.
    kind: an `image` model is a video model of one frame, with patch (1, h, w).
    params: '/'-joined name -> float32 array, complete for `model` (but for a head left out).
    model: the architecture.
    frames, height, width: of the clip that the positions belong to.
    task: heads and classes of the classifier; None without one.
    labels: one name per class along the logits' last axis; None where the source has none.
    preprocessing: of the clips.
    unused: what was in the file and is not here, and why.
  """

  path: Path
  format: str
  kind: Literal['image', 'video']
  params: Flat = dataclasses.field(repr=False)
  model: Model
  frames: int
  height: int
  width: int
  task: Task | None
  labels: tuple[str, ...] | None
  preprocessing: Preprocessing
  unused: Mapping[str, str] = dataclasses.field(repr=False)

  @property
  def classes(self) -> int:
    """Size of the logits' last axis; 0 without a head."""
    return sum(self.task.classes) if self.task else 0

  def values(self, needs_classifier: bool = True) -> tuple[Triple, Triple]:
    """Returns what a pixel of 0 and of 255 becomes.

    Args:
      needs_classifier: predictions come from models with one; features from any.

    Raises:
      CheckpointError: no classifier, or no value range.
    """
    if needs_classifier and self.task is None:
      raise CheckpointError(self.path, 'has no classifier, so it predicts nothing')
    low, high = self.preprocessing.low, self.preprocessing.high
    if low is None or high is None:
      raise CheckpointError(self.path, 'does not tell the value range that its weights expect')
    return low, high

  @property
  def short_side(self) -> int:
    """Pixels of frames' shorter side before the crop: Scenic's where the source does not say."""
    clip = Clip(height=self.height, width=self.width)
    return self.preprocessing.short_side or clip.usual_short_side

  @property
  def grid(self) -> Grid:
    """Tokens along time, height and width."""
    return grid(self.model, self.frames, self.height, self.width)


def grid(model: Model, frames: int, height: int, width: int) -> Grid:
  """Returns tokens along time, height and width of a clip of this size."""
  t, h, w = model.patch
  return (model.sampled_frames or frames // t, height // h, width // w)


def check_source(source: Source) -> Source:
  """Returns `source` if every parameter its model needs is there in its shape, and no other.

  Raises:
    CheckpointError: naming parameters and shapes, class counts that differ, or preprocessing that
      no video can have.
  """
  _check_preprocessing(source.path, source.preprocessing)
  expected = shapes(source.model, source.grid, source.classes)
  check_shapes(source.path, source.params, expected)
  if source.labels is not None and len(source.labels) != source.classes:
    raise CheckpointError(
      source.path, f'names {len(source.labels)} labels for a head of {source.classes} classes'
    )
  return source


def _check_preprocessing(path: Path, wants: Preprocessing) -> None:
  for name in ('stride', 'short_side'):
    value = getattr(wants, name)
    if value is not None and not (type(value) is int and 1 <= value <= LARGEST):
      raise CheckpointError(path, f'{name} is {value!r}, need a whole number from 1 on')
  seconds = wants.stride_seconds
  if seconds is not None and not 0 < seconds < math.inf:
    raise CheckpointError(path, f'stride_seconds is {seconds!r}, need a number above 0')
  for name in ('low', 'high'):
    values = getattr(wants, name)
    if values is not None and not all(map(math.isfinite, values)):
      raise CheckpointError(path, f'{name} is {values}, need finite numbers')


def check_hints(source: Source, hints: CheckpointFacts) -> None:
  """Refuses hints that contradict a source that tells everything itself.

  Raises:
    CheckpointError: naming both sides.
  """
  for name in ('attention', 'order', 'heads', 'gelu', 'norm_epsilon', 'tokenizer'):
    said, held = getattr(hints, name), getattr(source.model, name)
    if said is not None and said != held and not (said == 'image' and source.kind == 'image'):
      raise CheckpointError(source.path, f'{name} is {held!r} by the file, but {said!r} by you')
  for name in ('frames', 'height', 'width'):
    said, held = getattr(hints, name), getattr(source, name)
    if said is not None and said != held:
      raise CheckpointError(
        source.path,
        f'{name} is {held} by the file, but {said} by you; to run another clip, initialize a model '
        'from it',
      )
