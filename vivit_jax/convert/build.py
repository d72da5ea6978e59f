# SPDX-License-Identifier: Apache-2.0
"""Settles a checkpoint's model from what tensors, side-car and caller say, guessing nothing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_jax.config import Hints, Model, Task
from vivit_jax.config_parse import parse
from vivit_jax.convert.entries import Flat
from vivit_jax.convert.errors import CheckpointError
from vivit_jax.convert.grid import SIDES, solve
from vivit_jax.convert.layout import facts, positions
from vivit_jax.convert.source import Preprocessing, Source, check_source
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
  model, clip = _model(path, params, said, hints, image)
  task = task or _task(params)
  preprocessing = preprocessing or Preprocessing()
  if hints.stride is not None:
    preprocessing = dataclasses.replace(
      preprocessing, stride=hints.stride, stride_seconds=None, sampling='stride'
    )
  source = Source(
    path, format, 'image' if image else 'video', params, model, *clip, task, labels, preprocessing,
    dict(unused or {}),
  )  # fmt: skip
  return check_source(source)


def _model(
  path: Path, params: Flat, said: Mapping[str, Any], hints: Hints, image: bool
) -> tuple[Model, tuple[int, int, int]]:
  """Returns the model and its clip (frames, height, width)."""
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
  return checked_model(path, settings, clip), clip


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


def checked_task(path: Path, settings: Mapping[str, Any]) -> Task:
  """Returns the task of these settings, or a CheckpointError naming the one that cannot be."""
  try:
    return parse({'task': settings}).task
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
