# SPDX-License-Identifier: Apache-2.0
"""The export format of this package: one safetensors file with all settings in its metadata.

The metadata has model, clip, task, preprocessing and labels. Files are written atomically.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from vivit_jax.config.augment import Triple
from vivit_jax.config.clip import Preprocessing, of_range
from vivit_jax.config.parse import convert, parse
from vivit_jax.config.renamed import modernize
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.files import replaced
from vivit_jax.weights.containers import parse_json
from vivit_jax.weights.facts import facts
from vivit_jax.weights.readers import Checkpoint
from vivit_jax.weights.resolve import resolve
from vivit_jax.weights.source import Source, check_hints, check_source

KEY = 'vivit_jax'  # metadata key; its value is JSON
VERSION = 1


def is_ours(checkpoint: Checkpoint) -> bool:
  """Returns whether the file is an export of this package."""
  return KEY in checkpoint.metadata


def write(source: Source, path: str | Path) -> None:
  """Writes a checked source of any model, atomically.

  Args:
    source: the weights; `load` returns them bitwise equal, except for `path` and `unused`.
    path: file to write; replaced if it exists.

  Raises:
    CheckpointError: the parameters do not fit the model.
  """
  path = Path(path)
  check_source(source)
  about = {
    'version': VERSION,
    'format': source.format,
    'kind': source.kind,
    'model': dataclasses.asdict(source.model),
    'clip': {'frames': source.frames, 'height': source.height, 'width': source.width},
    'task': dataclasses.asdict(source.task) if source.task else None,
    'labels': source.labels,
    'preprocessing': dataclasses.asdict(source.preprocessing),
  }
  tensors = {name: np.ascontiguousarray(array) for name, array in source.params.items()}
  write_tensors(path, tensors, {KEY: json.dumps(about)})


def load(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads an export of this package; it is self-contained, so hints must agree with it.

  Raises:
    CheckpointError: file, metadata and hints contradict each other.
  """
  path = checkpoint.path
  about = parse_json(checkpoint.metadata[KEY].encode(), path)
  if about.get('version') != VERSION:
    raise CheckpointError(
      path, f'has version {about.get("version")!r}, but this package reads {VERSION}'
    )
  task = about.get('task')
  try:
    saved = {'model': about['model'], 'clip': about['clip'], 'task': task or {}}
    config = parse(modernize(saved))
    labels = _labels(about['labels'])
    preprocessing = _preprocessing(about['preprocessing'])
    kind, name = about['kind'], about['format']
  except (ConfigError, KeyError, TypeError, ValueError) as error:
    raise CheckpointError(path, f'its metadata is invalid: {error}') from None
  if kind not in ('image', 'video') or not isinstance(name, str):
    raise CheckpointError(path, f'its metadata is invalid: kind {kind!r}, format {name!r}')
  if hints.head and task is None and config.model.pooling != 'none':
    raise CheckpointError(path, 'has no classifier; to initialize another model, give head=False')
  names, unused = list(checkpoint.entries), {}
  if not hints.head:
    unused = {n: 'the head is not wanted' for n in names if n.startswith('head/')}
    names, task, labels = [n for n in names if n not in unused], None, None
  clip, params = config.clip, checkpoint.load(names)
  # Checked before shapes are computed from the metadata, which may claim billions of layers.
  resolve(
    path,
    {'the tensors': facts(path, params), 'the metadata': dataclasses.asdict(config.model)},
  )
  source = Source(
    path, name, kind, params, config.model, clip.frames, clip.height, clip.width,
    config.task if task else None, labels, preprocessing, unused,
  )  # fmt: skip
  check_hints(source, hints)
  return check_source(source)


def _labels(value: Any) -> tuple[str, ...] | None:
  if value is None:
    return None
  if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
    raise ValueError('labels must be strings')
  return tuple(value)


def _preprocessing(value: Any) -> Preprocessing:
  """Returns the preprocessing of an export; before version 0.2 it has `low` and `high` instead."""
  fields = dict(value)
  if 'low' in fields:
    low, high = (convert(Triple | None, fields.pop(name), name) for name in ('low', 'high'))
    mean, std = (None, None) if low is None or high is None else _of_range(low, high)
    fields |= {'mean': mean, 'std': std}
  wants = convert(Preprocessing, fields, 'preprocessing')
  assert isinstance(wants, Preprocessing)
  return wants


def _of_range(low: Triple, high: Triple) -> tuple[Triple, Triple]:
  if any(a == b or not math.isfinite(a + b) for a, b in zip(low, high, strict=True)):
    raise ValueError(f'invalid value range from {low} to {high}')
  return of_range(low, high)


def write_tensors(
  path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes or replaces a file atomically."""
  with replaced(path) as temporary:
    temporary.touch()
    permissions = temporary.stat().st_mode & 0o777
    safetensors.numpy.save_file(dict(tensors), temporary, dict(metadata))
    temporary.chmod(permissions)  # some versions of the library restrict it to its owner
