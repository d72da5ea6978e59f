# SPDX-License-Identifier: Apache-2.0
"""Tokens, parameters, cost and memory of a config or a checkpoint, from shapes alone."""

import dataclasses
import json
from typing import Any

from jax.sharding import AbstractMesh

from vivit_jax.config.parse import to_dict
from vivit_jax.config.schema import SIZES, Clip, Config, Size, Task
from vivit_jax.distributed.mesh import AXES
from vivit_jax.errors import printable
from vivit_jax.model.cost import model_cost
from vivit_jax.plan.memory import abstract_training, as_lines, bytes_per_device, placement
from vivit_jax.weights.huggingface_config import family_of
from vivit_jax.weights.source import Source

SHOWN_LABELS = 5
ONE_DEVICE = AbstractMesh((1,) * len(AXES), AXES)
CLASSES_OF_DATA = (
  'config.task.classes=() is taken from the data, which is missing: assuming one class per head'
)


def summarise(config: Config, devices: int | None = None, head: bool = True) -> dict[str, Any]:
  """Returns the summary of a config as JSON values; creates no parameters and reads no videos.

  Args:
    config: the config.
    devices: number of devices; by default the product of the mesh axes.
    head: whether the model has a head; only encoder checkpoints have none.

  Raises:
    ConfigError: the config does not fit on this number of devices.
  """
  given = config
  if not config.task.classes:
    one_each = (1,) * len(config.task.heads)
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, classes=one_each))
  model, _, state = abstract_training(config, head)
  cost = model_cost(model, config.clip)
  t, h, w = config.model.patch
  frames = config.model.sampled_frames or config.clip.frames // t
  return {
    'model': _name(config),
    'token_grid': {
      'time': frames,
      'height': config.clip.height // h,
      'width': config.clip.width // w,
    },
    'parameters': cost.parameters,
    'gflops': cost.gflops,
    'matmul_gflops': cost.matmul_gflops,
    'parts': cost.parts,
    'bytes': {
      'parameters': bytes_per_device(ONE_DEVICE, state.params),
      'optimizer_state': bytes_per_device(ONE_DEVICE, state.opt_state),
    },
    'placement': placement(config, state, devices),
    'config': to_dict(given),
  }


def summarise_checkpoint(source: Source) -> dict[str, Any]:
  """Returns the summary of a checkpoint's model, with its preprocessing and class names."""
  clip = Clip(frames=source.frames, height=source.height, width=source.width)
  if source.preprocessing.stride is not None:
    clip = dataclasses.replace(clip, stride=source.preprocessing.stride)
  task = source.task or Task(classes=(1,))
  config = Config(task=task, model=source.model, clip=clip)
  summary = summarise(config, head=source.task is not None)
  settings = {'model': summary.pop('config')['model']}
  del summary['placement']
  return summary | {
    'checkpoint': {
      'path': str(source.path),
      'format': source.format,
      'kind': source.kind,
      'family': family_of(source).title,
      'license_of_published_weights': family_of(source).license,
      'clip': {'frames': source.frames, 'height': source.height, 'width': source.width},
      'classes': source.classes,
      'labels': list(source.labels) if source.labels else None,
      'preprocessing': dataclasses.asdict(source.preprocessing),
      'unused': dict(source.unused),
    },
    'config': settings,
  }


def as_json(summary: dict[str, Any]) -> str:
  """Returns the summary as JSON."""
  return json.dumps(summary, indent=1)


def as_text(summary: dict[str, Any]) -> str:
  """Returns the summary as text, with settings first."""
  grid, sizes = summary['token_grid'], summary['bytes']
  tokens = grid['time'] * grid['height'] * grid['width']
  lines = [f'config.{name} = {value!r}' for name, value in _flatten(summary['config'])]
  for name, value in _flatten(summary.get('checkpoint', {})):
    if name == 'labels' and value and len(value) > SHOWN_LABELS:
      value = f'{", ".join(value[:SHOWN_LABELS])}, ... ({len(value)} names)'
    lines.append(printable(f'{name}: {value}'))
  lines += [
    '',
    f'{summary["model"]}: {grid["time"]} x {grid["height"]} x {grid["width"]} = {tokens} tokens',
    '',
    f'{"part":24}{"parameters":>14}{"GFLOPs (matrix products)":>28}',
  ]
  lines += [
    f'{part:24}{cost["parameters"]:14,}{cost["matmul_gflops"]:28,.3f}'
    for part, cost in summary['parts'].items()
  ]
  lines += [
    f'{"total":24}{summary["parameters"]:14,}{summary["matmul_gflops"]:28,.3f}',
    '',
    f'GFLOPs as the paper counts (multiply-adds, elementwise work too): {summary["gflops"]:,.1f}',
    f'parameters {sizes["parameters"] / 2**20:,.1f} MiB, '
    f'optimizer state {sizes["optimizer_state"] / 2**20:,.1f} MiB',
  ]
  if not summary['config'].get('task', {'classes': True})['classes']:
    lines += ['', CLASSES_OF_DATA]
  if 'placement' in summary:
    lines += ['', *as_lines(summary['placement'])]
  return '\n'.join(lines)


def _name(config: Config) -> str:
  model = config.model
  size = Size(model.layers, model.width, model.mlp_dim, model.heads)
  names = [name for name, known in SIZES.items() if known == size]
  own = '-'.join(str(value) for value in dataclasses.astuple(size))
  t, h, w = model.patch
  patch = f'{h}x{t}' if h == w else f'{h}.{w}x{t}'
  return f'{names[0] if names else own}/{patch} {model.attention}'


def _flatten(tree: dict[str, Any], path: str = '') -> list[tuple[str, Any]]:
  rows = []
  for name, value in tree.items():
    inner = f'{path}.{name}' if path else name
    rows += _flatten(value, inner) if isinstance(value, dict) else [(inner, value)]
  return rows
