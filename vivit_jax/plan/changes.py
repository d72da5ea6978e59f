# SPDX-License-Identifier: Apache-2.0
"""What can be changed about a training step to make it fit, from cheap to dear."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from vivit_jax.config import Config
from vivit_jax.config_mesh import check_devices
from vivit_jax.config_parse import parse, to_dict
from vivit_jax.errors import ConfigError

HOST = 8  # devices that mostly share a machine: more along fsdp would save little and cost network


@dataclasses.dataclass(frozen=True)
class Change:
  """One way to need less memory.

  Attributes:
    name: in tables.
    settings: that make it, by their dotted names.
    costs: what it does to the time of a step, in words.
  """

  name: str
  settings: dict[str, Any]
  costs: str


def changes(config: Config, devices: int) -> list[Change]:
  """Returns the changes that this experiment has not made yet, cheap ones first."""
  data, fsdp, context = check_devices(config, devices)
  clips = config.train.batch_size // (data * fsdp)
  found = []
  if config.model.dtype == 'float32':
    found.append(Change('bfloat16', {'model.dtype': 'bfloat16'}, 'faster'))
  if fsdp == 1 and data > 1:
    split = {'mesh.data': -1, 'mesh.fsdp': math.gcd(data, HOST)}
    found.append(Change('fsdp', split, 'parameters travel twice more'))
  if clips > config.train.accumulate:
    found.append(Change('accumulate', {'train.accumulate': clips}, 'one clip at a time'))
  if config.model.remat == 'none':
    again = {'model.scan': True, 'model.remat': 'block'}
    found.append(Change('remat', again, 'forward pass twice: up to 4/3'))
  share = next((n for n in (4, 2) if context == 1 and _divides(config, devices, n)), None)
  if share:
    # The same number of clips on fewer groups of devices: less memory only one by one.
    split = {'mesh.data': -1, 'mesh.context': share, 'train.accumulate': clips * share}
    found.append(Change('context', split, 'devices share a clip, one at a time'))
  return found


def combinations(found: list[Change]) -> Iterator[tuple[Change, ...]]:
  """Yields no change, then all sets that go together, each before any with a dearer change."""
  for number in range(2 ** len(found)):
    made = tuple(change for place, change in enumerate(found) if number >> place & 1)
    settings = {item for change in made for item in change.settings.items()}
    if len(settings) == len(dict(settings)):
      yield made


def with_changes(config: Config, made: tuple[Change, ...]) -> Config:
  """Returns the experiment after some changes.

  Raises:
    ConfigError: where they exclude each other.
  """
  tree = to_dict(config)
  for change in made:
    for path, value in change.settings.items():
      section, name = path.split('.')
      tree[section][name] = value
  return parse(tree)


def _divides(config: Config, devices: int, context: int) -> bool:
  mesh = dataclasses.replace(config.mesh, data=-1, context=context)
  try:
    check_devices(dataclasses.replace(config, mesh=mesh), devices)
  except ConfigError:
    return False
  return True
