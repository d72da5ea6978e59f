# SPDX-License-Identifier: Apache-2.0
"""Renamed settings: accepted in files of earlier versions, rejected on the command line."""

from collections.abc import Iterable, Mapping
from typing import Any

from vivit_jax.errors import nearest

# Old name with its section -> new name in that section.
NAMES = {
  'augment.colour': 'color_jitter',
  'augment.erase': 'random_erasing',
  'augment.repeats': 'repeated_augmentation',
  'data.max_bad_share': 'max_bad_fraction',
  'data.timeout': 'decode_timeout_seconds',
  'faults.disk_full': 'on_disk_full',
  'faults.hang_seconds': 'hang_timeout_seconds',
  'faults.heartbeat_seconds': 'heartbeat_timeout_seconds',
  'faults.nonfinite_in_row': 'max_consecutive_nonfinite',
  'init.hints': 'facts',
  'mix.cutmix_share': 'cutmix_fraction',
  'mix.group': 'group_size',
  'train.accumulate': 'grad_accum_steps',
  'train.clip_groups': 'grad_clip_groups',
  'train.clip_norm': 'grad_clip_norm',
  'train.frozen': 'freeze',
}

# Setting (new name) -> its old values and their new names.
VALUES = {
  'augment.flip': {'paper': 'horizontal'},
  'faults.on_disk_full': {'end': 'stop', 'go_on': 'continue'},
  'init.head': {'taken': 'load', 'fresh': 'init'},
  'init.spatial_cls': {'taken': 'load', 'fresh': 'init'},
  'init.temporal_attention': {'copied': 'copy'},
}

# Command-line options: old -> new.
OPTIONS = {'--max-bad-share': '--max-bad-fraction'}


def modernize(tree: Mapping[str, Any], section: str = '') -> dict[str, Any]:
  """Returns the settings saved by an earlier version under their current names.

  Args:
    tree: settings by section. If a setting is present under both names, both are kept, so that
      `parse` rejects the old one.
    section: section of these settings, with a trailing dot; empty for the whole tree.
  """
  result = {}
  for name, value in tree.items():
    new = NAMES.get(f'{section}{name}', name)
    if new in tree:
      new = name
    if isinstance(value, Mapping):
      value = modernize(value, f'{section}{new}.')
    elif isinstance(value, str):
      value = VALUES.get(f'{section}{new}', {}).get(value, value)
    result[new] = value
  return result


def unknown(path: str, known: Iterable[str]) -> str:
  """Returns the error message for an unknown setting: it was renamed or is misspelt.

  Args:
    path: full name of the setting, e.g. `config.train.clip_norm`.
    known: names of all settings in its section.
  """
  section, _, name = path.rpartition('.')
  new = NAMES.get(path.removeprefix('config.'))
  if new:
    return f'{path} is now called {section}.{new}'
  return f'{path} does not exist{nearest(name, known)}'


def not_a_choice(path: str, value: Any, choices: Iterable[str]) -> str:
  """Returns the error message for an invalid choice: it was renamed or is misspelt."""
  new = VALUES.get(path.removeprefix('config.'), {}).get(str(value))
  if new:
    return f'{path}={value!r} is now called {new!r}'
  return f'{path}={value!r} is not a choice{nearest(str(value), choices)}'
