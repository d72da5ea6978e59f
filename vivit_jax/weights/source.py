# SPDX-License-Identifier: Apache-2.0
"""A loaded checkpoint with this package's names: parameters, model and preprocessing.

`shapes` returns the names and shapes of a model's parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flax import traverse_util

from vivit_jax.config.augment import LARGEST, Triple
from vivit_jax.config.clip import Preprocessing
from vivit_jax.config.schema import CheckpointFacts, Clip, Model, Task
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights.readers import Flat

Shapes = dict[str, tuple[int, ...]]
Grid = tuple[int, int, int]  # tokens along time, height and width


def tokens(model: Model, grid: Grid) -> dict[str, tuple[int, ...]]:
  """Returns the grid of positions of each stage, without cls: {'spatial': (H, W), ...}."""
  time, *space = grid
  if model.positions == 'separable':
    return {'spacetime': (space[0], space[1]), 'spacetime/time': (time,)}
  if not model.attention.startswith('factorised_encoder'):
    return {'spacetime': grid}
  temporal = {'temporal': (time,)} if model.temporal_layers else {}
  return {'spatial': (space[0], space[1]), **temporal}


@functools.lru_cache(maxsize=32)
def shapes(model: Model, grid: Grid, classes: int) -> Shapes:
  """Returns name -> shape of all parameters, from an abstract initialization of the model.

  Only one block per stage is traced and repeated for the others: tracing 24 takes a second.

  Args:
    model: the architecture.
    grid: tokens along time, height and width.
    classes: number of classes; 0 = no head.
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


def without_decoder(params: Mapping[str, Any]) -> tuple[Flat, Flat]:
  """Returns the parameters of a model, and those of its decoder of masked pretraining."""
  parts: tuple[Flat, Flat] = ({}, {})
  for name, array in params.items():
    parts[name.startswith('decoder/')][name] = array
  return parts


def check_shapes(path: Path, params: Mapping[str, Any], expected: Shapes) -> None:
  """Rejects a tree with other names or shapes than `expected`.

  Raises:
    CheckpointError: names the parameters, with both sides of a mismatch.
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


@dataclasses.dataclass(frozen=True)
class Source:
  """A loaded checkpoint, converted to this package's names and settings.

  Attributes:
    path: its file or folder.
    format: e.g. 'Scenic'.
    kind: an `image` model is a video model of one frame, with patch (1, h, w).
    params: '/'-joined name -> float32 array, complete for `model` except for an omitted head.
    model: the architecture.
    frames, height, width: size of the clip that matches the positions.
    task: heads and classes of the classifier; None = no classifier.
    labels: one name per class along the logits' last axis; None if the source has none.
    preprocessing: preprocessing of clips.
    unused: unused arrays of the file, with reasons.
    notes: further information for the user, one line each; printed on loading.
    decoder: of masked pretraining, likewise by `decoder/...`; only more pretraining uses it.
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
  notes: tuple[str, ...] = ()
  decoder: Flat = dataclasses.field(default_factory=dict, repr=False)

  @property
  def classes(self) -> int:
    """Size of the logits' last axis; 0 without a head."""
    return sum(self.task.classes) if self.task else 0

  def normalization(self, needs_classifier: bool = True) -> tuple[Triple, Triple]:
    """Returns the mean and std of pixels for these weights.

    Args:
      needs_classifier: whether a classifier is required, as for predictions but not for features.

    Raises:
      CheckpointError: the classifier is missing, or the value range is unknown.
    """
    if needs_classifier and self.task is None:
      raise CheckpointError(
        self.path,
        'has no classifier: fine-tune it first, vivit train --config=configs/finetune.py '
        f'--config.init.checkpoint={self.path} --config.data.root=FOLDER --workdir=RUN',
      )
    mean, std = self.preprocessing.mean, self.preprocessing.std
    if mean is None or std is None:
      raise CheckpointError(self.path, 'does not specify the value range of its weights')
    return mean, std

  @property
  def short_side(self) -> int:
    """Shorter side of frames before the crop, in pixels; Scenic's value if unspecified."""
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
  """Returns `source` after checking its parameters, class names and preprocessing.

  Raises:
    CheckpointError: parameters, shapes or class counts do not match the model, or the preprocessing
      is invalid.
  """
  _check_preprocessing(source.path, source.preprocessing)
  expected = shapes(source.model, source.grid, source.classes)
  check_shapes(source.path, source.params, expected)
  if source.labels is not None and len(source.labels) != source.classes:
    raise CheckpointError(
      source.path, f'has {len(source.labels)} labels for a head of {source.classes} classes'
    )
  return source


def _check_preprocessing(path: Path, wants: Preprocessing) -> None:
  for name in ('stride', 'short_side'):
    value = getattr(wants, name)
    if value is not None and not (type(value) is int and 1 <= value <= LARGEST):
      raise CheckpointError(path, f'{name} is {value!r}, need a whole number >= 1')
  seconds = wants.stride_seconds
  if seconds is not None and not 0 < seconds < math.inf:
    raise CheckpointError(path, f'stride_seconds is {seconds!r}, need a number above 0')
  for name in ('mean', 'std'):
    values = getattr(wants, name)
    if values is not None and not all(map(math.isfinite, values)):
      raise CheckpointError(path, f'{name} is {values}, need finite numbers')
  if wants.std is not None and min(wants.std) <= 0:
    raise CheckpointError(path, f'std is {wants.std}, need numbers above 0')


def check_hints(source: Source, hints: CheckpointFacts) -> None:
  """Rejects hints that contradict a self-contained source.

  Raises:
    CheckpointError: names both values.
  """
  for name in ('attention', 'order', 'heads', 'gelu', 'norm_epsilon', 'tokenizer'):
    said, held = getattr(hints, name), getattr(source.model, name)
    if said is not None and said != held and not (said == 'image' and source.kind == 'image'):
      raise CheckpointError(source.path, f'{name} is {held!r} in the file, but you gave {said!r}')
  said, held = hints.sampling, source.preprocessing.sampling
  if said is not None and said != held:
    raise CheckpointError(source.path, f'sampling is {held!r} in the file, but you gave {said!r}')
  for name in ('frames', 'height', 'width'):
    said, held = getattr(hints, name), getattr(source, name)
    if said is not None and said != held:
      raise CheckpointError(
        source.path,
        f'{name} is {held} in the file, but you gave {said}; for another clip, initialize a model '
        'from it',
      )
