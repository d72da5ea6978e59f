# SPDX-License-Identifier: Apache-2.0
"""Searches for settings with which a training step fits into memory, trying cheap changes first."""

import dataclasses
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.schema import Config
from vivit_jax.distributed.mesh import check_devices
from vivit_jax.errors import ConfigError
from vivit_jax.plan.memory import estimate

HOST = 8  # usual devices per host; a larger fsdp axis saves little and uses the network


@dataclasses.dataclass(frozen=True)
class Change:
  """A change of settings that saves memory.

  Attributes:
    name: name in tables.
    settings: new values by dotted name.
    costs: description of its effect on the step time.
  """

  name: str
  settings: dict[str, Any]
  costs: str


def changes(config: Config, devices: int) -> list[Change]:
  """Returns the changes that are not yet in this config, cheap ones first."""
  data, fsdp, context = check_devices(config, devices)
  clips = config.train.batch_size // (data * fsdp)
  found = []
  if config.model.dtype == 'float32':
    found.append(Change('bfloat16', {'model.dtype': 'bfloat16'}, 'faster'))
  if fsdp == 1 and data > 1:
    split = {'mesh.data': -1, 'mesh.fsdp': math.gcd(data, HOST)}
    found.append(Change('fsdp', split, 'two more gathers of parameters'))
  if clips > config.train.grad_accum_steps:
    found.append(Change('accumulate', {'train.grad_accum_steps': clips}, 'one clip at a time'))
  if config.model.remat != 'block':
    again = {'model.scan': True, 'model.remat': 'block'}
    found.append(Change('remat', again, 'forward pass twice: up to 4/3'))
  share = next((n for n in (4, 2) if context == 1 and _divides(config, devices, n)), None)
  if share:
    # Fewer groups of devices process the same clips, so this saves memory only with accumulation.
    split = {'mesh.data': -1, 'mesh.context': share, 'train.grad_accum_steps': clips * share}
    found.append(Change('context', split, 'devices share a clip, one at a time'))
  return found


def combinations(found: list[Change]) -> Iterator[tuple[Change, ...]]:
  """Yields the empty set, then all compatible sets of changes, cheap ones first."""
  for number in range(2 ** len(found)):
    made = tuple(change for place, change in enumerate(found) if number >> place & 1)
    settings = {item for change in made for item in change.settings.items()}
    if len(settings) == len(dict(settings)):
      yield made


def with_changes(config: Config, made: tuple[Change, ...]) -> Config:
  """Returns the config after some changes.

  Raises:
    ConfigError: the changes are incompatible.
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


HOPELESS = 1.3  # if the estimate is above this multiple of the memory, do not compile
TRIES = 6  # maximum number of compilations; each takes minutes

Compile = Callable[[Config], tuple[dict[str, int], str]]


@dataclasses.dataclass(frozen=True)
class Trial:
  """A set of changes and its memory.

  Attributes:
    made: changes to the config.
    sizes: bytes per device by purpose; empty if compilation failed.
    fits: whether it fits into memory.
    seconds: compilation time; None for an estimate.
    refusal: error of the compiler.
  """

  made: tuple[Change, ...]
  sizes: dict[str, int]
  fits: bool
  seconds: float | None = None
  refusal: str = ''


def search(
  config: Config,
  devices: int,
  available: int,
  compiler: Compile | None,
  kind: Literal['tpu', 'gpu'] = 'gpu',
) -> list[Trial]:
  """Returns trials of the config as given, of each single change, and of the first set that fits.

  Sets are tried from cheap to costly. With a compiler, estimates only decide which sets are worth
  compiling (at most TRIES), until one fits.

  Args:
    config: the config as given.
    devices: number of devices.
    available: memory of each device in bytes.
    compiler: computes the memory of a config; None = use estimates only.
    kind: type of the devices, for the estimate.

  Raises:
    ConfigError: the config as given is impossible on this number of devices.
  """
  trials: list[Trial] = []
  for made in combinations(changes(config, devices)):
    found = any(trial.fits for trial in trials)
    if found and (len(made) > 1 or (compiler and trials[0].fits)):
      continue
    try:
      changed = with_changes(config, made)
      sizes = estimate(changed, devices, kind)
    except ConfigError:
      if made:
        continue
      raise
    total = sum(sizes.values())
    tries = sum(trial.seconds is not None for trial in trials)
    if compiler and not found and tries < TRIES and total <= HOPELESS * available:
      trial = _compile(compiler, changed, made, available)
    else:
      trial = Trial(made, sizes, total <= available)
    if len(made) <= 1 or trial.fits or trial.seconds is not None:
      trials.append(trial)
  return trials


def _compile(compiler: Compile, config: Config, made: tuple[Change, ...], available: int) -> Trial:
  print(f'vivit: compiling {names(made)} ...', file=sys.stderr, flush=True)
  start = time.monotonic()
  sizes, refusal = compiler(config)
  seconds = time.monotonic() - start
  print(f'vivit: {refusal or "compiled"}, {seconds:.0f} s', file=sys.stderr, flush=True)
  return Trial(made, sizes, bool(sizes) and sum(sizes.values()) <= available, seconds, refusal)


def names(made: tuple[Change, ...]) -> str:
  """Returns the names of changes as text."""
  return ' + '.join(change.name for change in made) or 'as given'


# GiB per TPU by generation (the "system architecture" pages of cloud.google.com/tpu/docs). The
# compiler reserves a small part of it.
HBM = {'v5e': 16, 'v5p': 95, 'v6e': 32}

# Fraction of a GPU's memory that JAX allocates unless XLA_PYTHON_CLIENT_MEM_FRACTION is set
# (docs.jax.dev/en/latest/gpu_memory_allocation.html).
GPU_SHARE = 0.75

UNITS = {'MB': 10**6, 'GB': 10**9, 'MiB': 2**20, 'GiB': 2**30}


def parse_topology(text: str) -> tuple[int, int]:
  """Returns the number of TPUs and the bytes of each for a topology such as `v5e:8x8`."""
  name, _, shape = text.partition(':')
  if name not in HBM or re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', shape) is None:
    raise ConfigError(
      f'--topology={text} is not GENERATION:SHAPE, e.g. v5e:8x8; generations are {", ".join(HBM)}'
    )
  return math.prod(int(size) for size in shape.split('x')), HBM[name] * 2**30


def parse_memory(text: str) -> int:
  """Returns the bytes of a size such as `80GB` or `24GiB`."""
  match = re.fullmatch(r'(\d+(?:\.\d+)?)(MB|GB|MiB|GiB)', text)
  if match is None or not float(match[1]):
    raise ConfigError(f'--device-memory={text} is not a size: give e.g. 80GB or 24GiB')
  return int(float(match[1]) * UNITS[match[2]])
