# SPDX-License-Identifier: Apache-2.0
"""Determines a checkpoint's model from tensors, side-car and caller, without guessing.

The clip is derived from the number of positions if only one clip has that number.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config.clip import Preprocessing
from vivit_jax.config.parse import parse
from vivit_jax.config.schema import CheckpointFacts, Model, Task
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.weights.facts import Either, facts, positions
from vivit_jax.weights.readers import Flat
from vivit_jax.weights.source import Source, check_source

SIDES = ('frames', 'height', 'width')


def solve(
  path: Path, settings: Mapping[str, Any], positions: Mapping[str, int]
) -> tuple[tuple[int, int, int], int, list[str]]:
  """Returns (frames, height, width), tokens along time, and messages about unknown settings.

  A joint number of positions over time and space (3136 in B/16x2) fits many clips, so frames, or
  height and width, must be known. Spatial positions are assumed to be square if possible.

  Args:
    path: path for messages.
    settings: `patch`; and if known `clip.frames`, `clip.height`, `clip.width`, `tokenizer`,
      `sampled_frames`.
    positions: number of positions per stage, without cls.

  Raises:
    CheckpointError: the known settings do not match the positions.
  """
  t, h, w = settings['patch']
  frames, height, width = (settings.get(f'clip.{name}') for name in SIDES)
  uniform = settings.get('tokenizer') == 'uniform_frame_sampling'
  time = _tokens(path, 'frames', frames, t)
  if uniform:
    time = _tokens(path, 'sampled_frames', settings.get('sampled_frames'), 1)
  high, wide = _tokens(path, 'height', height, h), _tokens(path, 'width', width, w)
  both, space = positions.get('spacetime'), positions.get('spatial')
  time = _agree(path, 'frames', time, positions.get('temporal'))
  if high and wide:
    space = _agree(path, 'height x width', space, high * wide)
  if both and space:
    time = _agree(path, 'frames', time, _divide(path, both, space))
  elif both and time:
    space = _divide(path, both, time)
  unclear = []
  if space and not high and not wide:
    high = wide = math.isqrt(space)
    if high * wide != space:
      unclear.append(f'height and width (positions hold {space} = H x W tokens, not a square)')
  elif space and (high or wide):
    high, wide = high or _divide(path, space, wide or 1), wide or _divide(path, space, high or 1)
  elif both:
    options = ', '.join(f'{both // s**2 * t}x{s * h}x{s * w}' for s in _square_roots(both))
    unclear.append(
      f'frames, or height and width (positions hold {both} = T x H x W tokens; with square frames '
      f'that is one of the clips {options})'
    )
  if time and frames is None and not uniform:
    frames = time * t
  if frames is None and not (both and not space):
    unclear.append('frames (the tensors do not depend on it)')
  found = (frames or 0, (high or 0) * h, (wide or 0) * w)
  if not unclear and both and (time or 0) * (high or 0) * (wide or 0) != both:
    raise CheckpointError(path, f'positions hold {both} tokens, not those of a clip of {found}')
  return found, time or 0, unclear


def _tokens(path: Path, name: str, size: Any, patch: int) -> int | None:
  if size is None:
    return None
  if type(size) is not int or size < 1 or size % patch:
    raise CheckpointError(path, f'{name}={size!r} is not a positive multiple of the patch {patch}')
  return size // patch


def _agree(path: Path, name: str, first: int | None, second: int | None) -> int | None:
  if first and second and first != second:
    raise CheckpointError(path, f'{name} means {first} tokens, the positions hold {second}')
  return first or second


def _divide(path: Path, total: int, part: int) -> int:
  if total % part:
    raise CheckpointError(path, f'positions hold {total} tokens, which {part} does not divide')
  return total // part


def _square_roots(total: int) -> list[int]:
  """Returns all s for which s x s divides `total`."""
  return [s for s in range(1, math.isqrt(total) + 1) if total % s**2 == 0]


# The hints that describe a model or a clip; the others control loading.
RESOLVED_FIELDS = ('attention', 'order', 'heads', 'gelu', 'norm_epsilon', 'tokenizer', *SIDES)
# Suggested values in messages about missing settings.
CHOICES = {
  'attention': "'spatio_temporal' or 'factorised_dot_product' (their tensors are alike)",
  'order': "'space_time' (the paper's) or 'time_space' (Scenic's default)",
  'gelu': "'exact' (timm, DeiT, Hugging Face ViT) or 'tanh' (JAX programs)",
  'norm_epsilon': '1e-6 (timm, DeiT, JAX programs) or 1e-12 (Hugging Face ViT)',
  'heads': 'a divisor of the width; 3, 6, 12, 16 for widths 192, 384, 768, 1024',
  'tokenizer': "'image' or 'uniform_frame_sampling' (their tensors are alike)",
}


def build(
  path: Path,
  format: str,  # noqa: A002 the name of the field
  params: Flat,
  said: Mapping[str, Any],
  hints: CheckpointFacts,
  *,
  image: bool = False,
  task: Task | None = None,
  labels: tuple[str, ...] | None = None,
  preprocessing: Preprocessing | None = None,
  unused: Mapping[str, str] | None = None,
  notes: tuple[str, ...] = (),
) -> Source:
  """Returns a checked Source from tensors, side-car and hints, which must not contradict.

  Args:
    path: path for messages.
    format: name of the format for messages.
    params: parameters under our names.
    said: settings of the side-car, by the names of config.Model and `clip.frames` etc.
    hints: settings given by the caller.
    image: whether it is an image model.
    task: task from the side-car; None = one softmax over the head's classes.
    labels: one name per class.
    preprocessing: preprocessing; hints override its stride and sampling.
    unused: unused names of the file with reasons.
    notes: see Source.

  Raises:
    CheckpointError: settings are missing (lists them with choices) or contradict each other.
  """
  model, clip = _model(path, params, said, hints, image)
  task = task or _task(params)
  preprocessing = _sampled(path, preprocessing or Preprocessing(), hints)
  source = Source(
    path, format, 'image' if image else 'video', params, model, *clip, task, labels, preprocessing,
    dict(unused or {}), notes,
  )  # fmt: skip
  return check_source(source)


def _sampled(path: Path, wants: Preprocessing, hints: CheckpointFacts) -> Preprocessing:
  """Returns the preprocessing with the caller's stride and sampling, if given."""
  if hints.stride is None and hints.sampling is None:
    return wants
  sampling = hints.sampling or 'stride'
  if hints.stride is not None and sampling != 'stride':
    raise CheckpointError(
      path, f'stride={hints.stride} contradicts sampling={sampling!r}: give only one'
    )
  stride = hints.stride or wants.stride
  return dataclasses.replace(wants, stride=stride, stride_seconds=None, sampling=sampling)


def _model(
  path: Path, params: Flat, said: Mapping[str, Any], hints: CheckpointFacts, image: bool
) -> tuple[Model, tuple[int, int, int]]:
  """Returns the model and its clip (frames, height, width)."""
  encoder = said.get('pooling') == 'none'  # a format with models without a head
  if hints.head and 'head/kernel' not in params and not encoder:
    raise CheckpointError(path, 'has no classifier; to initialize another model, give head=False')
  given = dataclasses.asdict(hints)
  given = {(f'clip.{k}' if k in SIDES else k): v for k, v in given.items() if k in RESOLVED_FIELDS}
  if given['tokenizer'] == 'image':
    given['tokenizer'] = 'tubelet'
  sources = {'the tensors': facts(path, params), 'the side-car': said, 'the arguments': given}
  settings = resolve(path, sources)
  needed = ['attention', 'gelu', 'norm_epsilon']
  if settings.get('attention') == 'factorised_self_attention':
    needed.append('order')
  missing = [f'{name}: {CHOICES[name]}' for name in needed if name not in settings]
  if image:
    settings['clip.frames'] = 1
  clip, time, unclear = solve(path, settings, positions(path, params))
  if missing or unclear:
    raise CheckpointError(
      path, 'the tensors do not determine these, so give them: ' + '; '.join(missing + unclear)
    )
  if settings.get('tokenizer') == 'uniform_frame_sampling':
    settings['sampled_frames'] = time
  return checked_model(path, settings, clip), clip


def checked_model(path: Path, settings: Mapping[str, Any], clip: tuple[int, int, int]) -> Model:
  """Returns the model with these settings; raises CheckpointError if a setting is invalid."""
  fields = {field.name for field in dataclasses.fields(Model)}
  tree = {
    'model': {name: value for name, value in settings.items() if name in fields},
    'clip': dict(zip(SIDES, clip, strict=True)),
  }
  try:
    return parse(tree).model
  except ConfigError as error:
    raise CheckpointError(path, str(error)) from None


def checked_task(path: Path, settings: Mapping[str, Any]) -> Task:
  """Returns the task with these settings; raises CheckpointError if a setting is invalid."""
  try:
    return parse({'task': settings}).task
  except ConfigError as error:
    raise CheckpointError(path, str(error)) from None


def resolve(path: Path, sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Merges the settings of several sources.

  Raises:
    CheckpointError: two sources contradict each other; names both.
  """
  resolved: dict[str, Any] = {}
  by: dict[str, str] = {}
  for source, settings in sources.items():
    for name, value in settings.items():
      if value is None:
        continue
      held = resolved.get(name)
      if isinstance(held, Either) and value in held:
        held = None
      if held is not None and held != value:
        raise CheckpointError(
          path, f'{name} is {_first(held)!r} in {by[name]}, but {value!r} in {source}'
        )
      resolved[name] = value
      by.setdefault(name, source)
  return {name: _first(value) for name, value in resolved.items()}


def _first(value: Any) -> Any:
  return value[0] if isinstance(value, Either) else value


def _task(params: Flat) -> Task | None:
  if 'head/bias' not in params:
    return None
  return Task(classes=(params['head/bias'].size,))
