# SPDX-License-Identifier: Apache-2.0
"""Converts nested plain values to a checked `Config`: types, choices, ranges, combinations."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from vivit_jax.config.augment import Augment
from vivit_jax.config.clip import check_clip
from vivit_jax.config.importable import check_names
from vivit_jax.config.model import check_variant
from vivit_jax.config.pretraining import check_masked
from vivit_jax.config.renamed import not_a_choice, unknown
from vivit_jax.config.schema import Clip, Config, Mesh, Mix, Model
from vivit_jax.errors import ConfigError, nearest

# Limit for all views of one video in bytes, since several videos are decoded at a time: 4 x 3 views
# of 296 frames of 224 x 224.
MAX_VIEWS = 2**29


def parse(tree: Mapping[str, Any]) -> Config:
  """Converts nested plain values (a ConfigDict as dict, or JSON) to a checked `Config`.

  Args:
    tree: settings by section; missing ones take their defaults.

  Returns:
    The config, with values of the declared types and valid combinations.

  Raises:
    ConfigError: names the setting, the value and what would be valid.
  """
  config = typing.cast(Config, convert(Config, tree, 'config'))
  check(config)
  return config


def to_dict(config: Config) -> dict[str, Any]:
  """Returns the settings as nested plain values, the inverse of `parse`."""
  return dataclasses.asdict(config)


def required(kind: Any) -> Any:
  """Returns X for the type `X | None`, and other types unchanged."""
  if typing.get_origin(kind) not in (typing.Union, types.UnionType):
    return kind
  return next(part for part in typing.get_args(kind) if part is not type(None))


def setting_type(path: str) -> Any:
  """Returns the annotated type of a setting, e.g. of `train.steps`.

  Raises:
    ConfigError: the setting does not exist or is a section.
  """
  kind: Any = Config
  done = 'config'
  for name in path.split('.'):
    hints = typing.get_type_hints(kind, include_extras=True) if _is_section(kind) else {}
    done = f'{done}.{name}'
    if name not in hints:
      raise ConfigError(unknown(done, hints) if hints else f'{done} does not exist')
    kind = hints[name]
  if _is_section(kind):
    raise ConfigError(f'{done} is a section; set one of {", ".join(typing.get_type_hints(kind))}')
  return kind


def _is_section(kind: Any) -> bool:
  return dataclasses.is_dataclass(kind)


def convert(kind: Any, value: Any, path: str) -> Any:
  """Converts `value` to the annotated type `kind`; raises a ConfigError that names `path`."""
  origin = typing.get_origin(kind)
  if dataclasses.is_dataclass(kind):
    return _convert_section(typing.cast(type, kind), value, path)
  if origin is typing.Annotated:
    base, bounds = typing.get_args(kind)
    value = convert(base, value, path)
    if value not in bounds:
      raise ConfigError(f'{path}={value!r} is out of range: it must be {bounds.needs(value)}')
    return value
  if required(kind) is not kind:
    return None if value is None else convert(required(kind), value, path)
  if origin is typing.Literal:
    choices = typing.get_args(kind)
    if value not in choices:
      raise ConfigError(not_a_choice(path, value, choices))
    return value
  if origin is tuple:
    return _convert_tuple(typing.get_args(kind), value, path)
  if kind is float and type(value) is int:
    return float(value)
  if type(value) is not kind:
    raise ConfigError(
      f'{path}={value!r} has the wrong type: {type(value).__name__}, need {kind.__name__}'
    )
  return value


def _convert_section(kind: type, value: Any, path: str) -> Any:
  hints = typing.get_type_hints(kind, include_extras=True)
  if not isinstance(value, Mapping):
    raise ConfigError(f'{path}={value!r} is not a section; set one of {", ".join(hints)} in it')
  for name in value:
    if name not in hints:
      raise ConfigError(unknown(f'{path}.{name}', hints))
  return kind(**{name: convert(hints[name], v, f'{path}.{name}') for name, v in value.items()})


def _convert_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
  if not isinstance(value, list | tuple):
    raise ConfigError(f'{path}={value!r} has the wrong type: {type(value).__name__}, need a tuple')
  if kinds[-1] is Ellipsis:
    kinds = kinds[:1] * len(value)
  if len(kinds) != len(value):
    raise ConfigError(f'{path}={value!r} has {len(value)} values, need {len(kinds)}')
  return tuple(
    convert(kind, v, f'{path}[{i}]') for i, (kind, v) in enumerate(zip(kinds, value, strict=True))
  )


def check(config: Config) -> None:
  """Rejects invalid combinations of settings, before any device or data is used.

  Raises:
    ConfigError: names the settings, their values and the remedy.
  """
  check_model(config.model, config.clip)
  check_clip(config.clip)
  task, train = config.task, config.train
  if task.kind == 'masked':
    check_masked(config)
  if any(',' in head for head in task.heads):
    raise ConfigError(
      f"config.task.heads={task.heads} has a comma in a name: write \"('verb', 'noun')\""
    )
  no_head = not task.heads and task.kind != 'masked'
  if no_head or (task.classes and len(task.heads) != len(task.classes)):
    raise ConfigError(
      f'config.task.heads={task.heads} and config.task.classes={task.classes} differ in length: '
      'give one class count per head'
    )
  if len(set(task.heads)) != len(task.heads):
    raise ConfigError(f'config.task.heads={task.heads} has a name twice')
  if task.kind == 'multi_label' and len(task.heads) != 1:
    raise ConfigError(f'config.task.heads={task.heads}: a multi_label task has exactly one head')
  if task.joint is not None and len(task.heads) < 2:
    raise ConfigError(
      f'config.task.joint={task.joint!r} needs at least two heads, but heads={task.heads}'
    )
  if task.joint in task.heads:
    raise ConfigError(f'config.task.joint={task.joint!r} is the name of a head; give another')
  if (balance := config.data.balance) is not None and balance not in task.heads:
    choices = nearest(balance, task.heads)
    raise ConfigError(f'config.data.balance={balance!r} is not a head of this task{choices}')
  if train.class_weights and train.balanced_loss:
    raise ConfigError('config.train.class_weights and config.train.balanced_loss: use one of them')
  check_names(config.data.source, config.augment.custom)
  _check_augment(config.augment)
  _check_mix(config.mix, config.augment.repeated_augmentation)
  if train.steps is None and train.epochs <= 0:
    raise ConfigError(
      f'config.train.epochs={train.epochs} trains nothing: give epochs > 0 or config.train.steps'
    )
  if train.warmup_epochs > train.epochs:
    raise ConfigError(
      f'config.train.warmup_epochs={train.warmup_epochs} is longer than '
      f'config.train.epochs={train.epochs}'
    )
  groups = (
    ('mix.group_size', config.mix.group_size),
    ('train.grad_clip_groups', train.grad_clip_groups),
    ('augment.repeated_augmentation', config.augment.repeated_augmentation),
  )
  for name, size in groups[0 if config.mix.mixup or config.mix.cutmix else 1 :]:
    if size and train.batch_size % size:
      raise ConfigError(
        f'config.train.batch_size={train.batch_size} is not divisible by config.{name}={size}'
      )
  if train.grad_clip_groups and not train.grad_clip_norm:
    raise ConfigError(
      f'config.train.grad_clip_groups={train.grad_clip_groups} needs a '
      'config.train.grad_clip_norm above 0'
    )
  if train.grad_clip_groups and train.grad_accum_steps > 1:
    raise ConfigError(
      f'config.train.grad_accum_steps={train.grad_accum_steps} and config.train.grad_clip_groups='
      f'{train.grad_clip_groups} both split the batch, in different ways: use one of them'
    )
  check_mesh(config.mesh)


def _check_augment(augment: Augment) -> None:
  ranges = (
    *(('crop', name) for name in ('scale', 'area', 'ratio')),
    *(('color_jitter', name) for name in ('saturation', 'contrast')),
    *(('random_erasing', name) for name in ('area', 'ratio')),
  )
  for section, name in ranges:
    low, high = value = getattr(getattr(augment, section), name)
    if not (low <= high and (low > 0 or section == 'color_jitter')):
      least = '' if section == 'color_jitter' else ', 0 < low'
      raise ConfigError(f'config.augment.{section}.{name}={value} must be (low, high){least}')


def _check_mix(mix: Mix, repeats: int) -> None:
  if (mix.mixup or mix.cutmix) and repeats > 1 and mix.group_size % (2 * repeats):
    raise ConfigError(
      f'config.mix.group_size={mix.group_size} would blend clips of the same video, because of '
      f'config.augment.repeated_augmentation={repeats}: give a multiple of {2 * repeats}'
    )


def check_views(temporal: int, spatial: int, clip: Clip) -> None:
  """Rejects views that are redundant or need too much memory.

  This also limits the sizes that a checkpoint can claim.

  Raises:
    ConfigError: has the number and size of the views and the problem.
  """
  if spatial > 1 and clip.resize == 'whole_frame':
    raise ConfigError(
      f"{temporal}x{spatial} views: with resize='whole_frame' all {spatial} crops would be the "
      f'same, so give {temporal}x1'
    )
  size = temporal * spatial * clip.frames * clip.height * clip.width * 3
  if size > MAX_VIEWS:
    raise ConfigError(
      f'{temporal}x{spatial} views of {clip.frames} frames of {clip.height}x{clip.width} pixels '
      f'take {size // 2**20:,} MiB for each video, more than {MAX_VIEWS // 2**20}: give fewer '
      'views, or check the length of the clip'
    )


def check_model(model: Model, clip: Clip) -> None:
  """Rejects invalid models, and clip sizes that are not divisible by the patch."""
  t, h, w = model.patch
  check_variant(model)
  if model.width % model.heads:
    raise ConfigError(
      f'config.model.width={model.width} is not divisible by config.model.heads={model.heads}'
    )
  if model.attention == 'factorised_dot_product' and model.heads % 2:
    raise ConfigError(
      f'config.model.heads={model.heads} must be even for factorised_dot_product: half of the '
      'heads attend along time, half along space'
    )
  if model.attention_dropout and model.attention_kernel not in ('auto', 'plain'):
    raise ConfigError(
      f'config.model.attention_dropout={model.attention_dropout} needs the attention weights, '
      f"which config.model.attention_kernel={model.attention_kernel!r} does not keep; use 'plain'"
    )
  if clip.height % h or clip.width % w:
    raise ConfigError(
      f'config.clip.height x width={clip.height}x{clip.width} is not divisible by '
      f'config.model.patch={model.patch} (t, h, w)'
    )
  if model.tokenizer == 'uniform_frame_sampling':
    if t != 1:
      raise ConfigError(f'config.model.patch={model.patch}: uniform_frame_sampling needs t = 1')
    if model.sampled_frames is None or model.sampled_frames > clip.frames:
      raise ConfigError(
        f'config.model.sampled_frames={model.sampled_frames} must be from 1 to '
        f'config.clip.frames={clip.frames} for uniform_frame_sampling'
      )
  elif model.sampled_frames is not None:
    raise ConfigError(
      f'config.model.sampled_frames={model.sampled_frames} is only for '
      "config.model.tokenizer='uniform_frame_sampling'"
    )
  elif clip.frames % t:
    raise ConfigError(
      f'config.clip.frames={clip.frames} is not divisible by the tubelet length t={t} of '
      f'config.model.patch={model.patch}'
    )


def check_mesh(mesh: Mesh) -> None:
  """Rejects invalid axis sizes."""
  sizes = dataclasses.asdict(mesh)
  for name, size in sizes.items():
    if size == 0:
      raise ConfigError(f'config.mesh.{name}=0 leaves no device; use -1 for all of them')
  rest = [f'config.mesh.{name}=-1' for name, size in sizes.items() if size == -1]
  if len(rest) > 1:
    raise ConfigError(f'{" and ".join(rest)}: only one axis can take the remaining devices')
