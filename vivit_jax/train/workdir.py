# SPDX-License-Identifier: Apache-2.0
"""What a workdir remembers of its experiment, and whether a command may continue it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vivit_jax import __version__
from vivit_jax.checkpoint import write_json
from vivit_jax.config import Config
from vivit_jax.config_parse import parse, to_dict
from vivit_jax.errors import CheckpointError, ConfigError

SNAPSHOT = 'config.json'

# Settings that change neither the numbers of a run nor what its checkpoints mean.
FREE = (
  'checkpoint', 'evaluate', 'mesh', 'data.workers', 'data.root', 'data.max_bad_share',
  'train.log_every', 'train.evaluate_every', 'train.checkpoint_every', 'model.scan', 'model.remat',
)  # fmt: skip


def claim(workdir: Path, config: Config, data: str) -> None:
  """Writes the snapshot of a new run, or checks that this command continues the run that is there.

  Args:
    workdir: of the run.
    config: of this command.
    data: fingerprint of the training data.

  Raises:
    ConfigError: naming the settings that differ.
  """
  now = json.loads(json.dumps(to_dict(config)))
  if (workdir / SNAPSHOT).exists():
    before = _read(workdir)
    different = [
      f'config.{name} was {old!r} and is {new!r}'
      for name, old, new in _differences(before['config'], now)
      if not any(name == free or name.startswith(free + '.') for free in FREE)
    ]
    if before['data'] != data:
      different.append(f'the training data was {before["data"]} and is {data}')
    if different:
      raise ConfigError(
        f'{workdir} holds another run: {"; ".join(different)}; give another --workdir'
      )
  write_json(workdir / SNAPSHOT, {'config': now, 'data': data, 'version': __version__})


def read_config(workdir: Path) -> Config:
  """Returns the configuration of a run.

  Raises:
    CheckpointError: where the folder holds no run.
  """
  return parse(_read(workdir)['config'])


def _read(workdir: Path) -> dict[str, Any]:
  file = workdir / SNAPSHOT
  if not file.is_file():
    raise CheckpointError(f'{workdir} holds no run: it has no {SNAPSHOT}')
  try:
    content = json.loads(file.read_text())
    return {'config': content['config'], 'data': content['data']}
  except (ValueError, KeyError, TypeError) as error:
    raise CheckpointError(f'{file} is damaged: {error}') from None


def _differences(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for name in {**old, **new}:
      inner = f'{path}.{name}' if path else name
      yield from _differences(old.get(name), new.get(name), inner)
  elif old != new:
    yield path, old, new
