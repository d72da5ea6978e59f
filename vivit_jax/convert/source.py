# SPDX-License-Identifier: Apache-2.0
"""A checkpoint read: our parameters, the model they belong to, and what it expects of a clip."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vivit_jax.config import Attention, Model, Task
from vivit_jax.config_parse import parse
from vivit_jax.convert.entries import Flat
from vivit_jax.convert.errors import CheckpointError
from vivit_jax.convert.grid import SIDES, solve
from vivit_jax.convert.layout import Grid, check_shapes, facts, positions, shapes
from vivit_jax.errors import ConfigError

# The hints that settle a model or a clip; the others choose what to do with it.
SAID = ('attention', 'order', 'heads', 'gelu', 'norm_epsilon', 'tokenizer', *SIDES)
# What a message offers where a setting is missing.
CHOICES = {
  'attention': "'spatio_temporal' or 'factorised_dot_product' (their tensors are alike)",
  'order': "'space_time' (the paper's) or 'time_space' (Scenic's default)",
  'gelu': "'exact' (timm, DeiT, Hugging Face ViT) or 'tanh' (JAX programs)",
  'norm_epsilon': '1e-6 (timm, DeiT, JAX programs) or 1e-12 (Hugging Face ViT)',
  'heads': 'a divisor of the width; 3, 6, 12, 16 for widths 192, 384, 768, 1024',
  'tokenizer': "'image' or 'uniform_frame_sampling' (their tensors are alike)",
}


@dataclasses.dataclass(frozen=True)
class Hints:
  """What the caller says of a checkpoint; None = it must come from the file or its side-car.

  Attributes:
    attention, order, heads, gelu, norm_epsilon: as in config.Model.
    tokenizer: as in config.Model, or 'image' for an image model.
    frames, height, width: of a clip, in frames and pixels; `stride` between frames.
    value_range: `trained` is [-1, 1]; `processor` what the processor beside a Hugging Face model
      feeds it, which for ViViT is [-3, 1]: it maps 0..255 to [-1, 1] and then subtracts 0.5 and
      divides by 0.5 once more, though the weights were trained on [-1, 1].
    head: False leaves the classifier out, to initialise another model.
  """

  attention: Attention | None = None
  order: Literal['space_time', 'time_space'] | None = None
  heads: int | None = None
  gelu: Literal['tanh', 'exact'] | None = None
  norm_epsilon: float | None = None
  tokenizer: Literal['tubelet', 'uniform_frame_sampling', 'image'] | None = None
  frames: int | None = None
  height: int | None = None
  width: int | None = None
  stride: int | None = None
  value_range: Literal['trained', 'processor'] = 'trained'
  head: bool = True


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """What the weights expect of a video; None where the source does not say.

  Attributes:
    low, high: what a pixel of 0 and of 255 becomes, per channel.
    channels: their order.
    stride: between the frames of a clip.
    short_side: pixels to which the shorter side is resized before the crop.
  """

  low: tuple[float, float, float] | None = (-1.0, -1.0, -1.0)
  high: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
  channels: Literal['rgb', 'bgr'] = 'rgb'
  stride: int | None = None
  short_side: int | None = None


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
  params: Flat
  model: Model
  frames: int
  height: int
  width: int
  task: Task | None
  labels: tuple[str, ...] | None
  preprocessing: Preprocessing
  unused: Mapping[str, str]

  @property
  def classes(self) -> int:
    """Size of the logits' last axis; 0 without a head."""
    return sum(self.task.classes) if self.task else 0

  @property
  def grid(self) -> Grid:
    """Tokens along time, height and width."""
    return grid(self.model, self.frames, self.height, self.width)


def grid(model: Model, frames: int, height: int, width: int) -> Grid:
  """Returns tokens along time, height and width of a clip of this size."""
  t, h, w = model.patch
  return (model.sampled_frames or frames // t, height // h, width // w)


def build(
  path: Path,
  format: str,  # noqa: A002 the word of the field
  params: Flat,
  said: Mapping[str, Any],
  hints: Hints,
  *,
  image: bool = False,
  task: Task | None = None,
  labels: tuple[str, ...] | None = None,
  preprocessing: Preprocessing | None = None,
  unused: Mapping[str, str] | None = None,
) -> Source:
  """Returns a checked Source from what tensors, side-car and caller tell, refusing contradictions.

  Args:
    path: for messages.
    format: likewise.
    params: under our names.
    said: what the side-car says, by the names of config.Model, and `clip.frames` and so on.
    hints: what the caller says.
    image: whether it is an image model.
    task: of the head, where the side-car tells; else one softmax over the head's classes.
    labels: one per class.
    preprocessing: its stride is overruled by the hints'.
    unused: what was left out of the file.

  Raises:
    CheckpointError: listing what is missing and the choices, or both sides of a contradiction.
  """
  if hints.head and 'head/kernel' not in params:
    raise CheckpointError(path, 'has no classifier; to initialise another model, say head=False')
  given = dataclasses.asdict(hints)
  given = {(f'clip.{k}' if k in SIDES else k): v for k, v in given.items() if k in SAID}
  if given['tokenizer'] == 'image':
    given['tokenizer'] = 'tubelet'
  witnesses = {'the tensors': facts(path, params), 'the side-car': said, 'the arguments': given}
  settings = settle(path, witnesses)
  needed = ['attention', 'gelu', 'norm_epsilon']
  if settings.get('attention') == 'factorised_self_attention':
    needed.append('order')
  missing = [f'{name}: {CHOICES[name]}' for name in needed if name not in settings]
  if image:
    settings['clip.frames'] = 1
  clip, time, unclear = solve(path, settings, positions(path, params))
  if missing or unclear:
    raise CheckpointError(
      path, 'the tensors do not tell, so say as arguments: ' + '; '.join(missing + unclear)
    )
  if settings.get('tokenizer') == 'uniform_frame_sampling':
    settings['sampled_frames'] = time
  model = checked_model(path, settings, clip)
  task = task or _task(params)
  preprocessing = preprocessing or Preprocessing()
  if hints.stride is not None:
    preprocessing = dataclasses.replace(preprocessing, stride=hints.stride)
  source = Source(
    path, format, 'image' if image else 'video', params, model, *clip, task, labels, preprocessing,
    dict(unused or {}),
  )  # fmt: skip
  return check_source(source)


def check_source(source: Source) -> Source:
  """Returns `source` if every parameter its model needs is there in its shape, and no other.

  Raises:
    CheckpointError: naming parameters and shapes, or class counts that differ.
  """
  expected = shapes(source.model, source.grid, source.classes)
  check_shapes(source.path, source.params, expected)
  if source.labels is not None and len(source.labels) != source.classes:
    raise CheckpointError(
      source.path, f'names {len(source.labels)} labels for a head of {source.classes} classes'
    )
  return source


def checked_model(path: Path, settings: Mapping[str, Any], clip: tuple[int, int, int]) -> Model:
  """Returns the model of these settings, or a CheckpointError naming the one that cannot be."""
  fields = {field.name for field in dataclasses.fields(Model)}
  tree = {
    'model': {name: value for name, value in settings.items() if name in fields},
    'clip': dict(zip(SIDES, clip, strict=True)),
  }
  try:
    return parse(tree).model
  except ConfigError as error:
    raise CheckpointError(path, str(error)) from None


def settle(path: Path, witnesses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns all settings, each told by one witness or more.

  Raises:
    CheckpointError: where two witnesses contradict each other, naming both.
  """
  settled: dict[str, Any] = {}
  by: dict[str, str] = {}
  for witness, settings in witnesses.items():
    for name, value in settings.items():
      if value is None:
        continue
      if name in settled and settled[name] != value:
        raise CheckpointError(
          path, f'{name} is {settled[name]!r} by {by[name]}, but {value!r} by {witness}'
        )
      settled[name] = value
      by.setdefault(name, witness)
  return settled


def _task(params: Flat) -> Task | None:
  if 'head/bias' not in params:
    return None
  return Task(classes=(params['head/bias'].size,))


def value_range(
  path: Path, scale: Any, shift: float, mean: Any, std: Any
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
  """Returns what 0 and 255 become under ((pixel * scale - shift) - mean) / std, per channel.

  Raises:
    CheckpointError: where these are no numbers, one per channel.
  """
  lists = isinstance(mean, list | tuple) and isinstance(std, list | tuple)
  numbers = [scale, *mean, *std] if lists else []
  if len(numbers) != 7 or not all(isinstance(n, int | float) for n in numbers) or 0 in std:
    raise CheckpointError(path, f'has no usable value range: {scale!r}, {mean!r}, {std!r}'[:200])
  low = [(-shift - m) / s for m, s in zip(mean, std, strict=True)]
  high = [(255 * scale - shift - m) / s for m, s in zip(mean, std, strict=True)]
  return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def to_unit_range(source: Source) -> Source:
  """Returns the same function of pixels, for pixels in [-1, 1] instead of its own value range.

  (v + 1) / 2 * (high - low) + low is linear, and so is the patch projection: the range goes into
  its kernel and bias. Lets a DeiT (mean and deviation of ImageNet) start a video model.

  Raises:
    CheckpointError: where the source does not tell its range.
  """
  low, high = source.preprocessing.low, source.preprocessing.high
  if low is None or high is None:
    raise CheckpointError(source.path, 'does not tell the value range that its weights expect')
  if (low, high) == ((-1.0,) * 3, (1.0,) * 3):
    return source
  slope = (np.array(high) - np.array(low)) / 2
  middle = (np.array(high) + np.array(low)) / 2
  kernel = source.params['tokenizer/kernel'].astype(np.float64)
  bias = source.params['tokenizer/bias'] + np.einsum('thwcd,c->d', kernel, middle)
  kernel *= slope[:, None]
  changed = {'tokenizer/kernel': kernel, 'tokenizer/bias': bias}
  params = source.params | {name: a.astype(np.float32) for name, a in changed.items()}
  preprocessing = dataclasses.replace(
    source.preprocessing, low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0)
  )
  return dataclasses.replace(source, params=params, preprocessing=preprocessing)
