# SPDX-License-Identifier: Apache-2.0
"""What a workdir remembers of its experiment, and whether a command may continue it."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_jax import __version__
from vivit_jax.checkpoint import BEST, CHECKPOINTS
from vivit_jax.config import Config
from vivit_jax.config_parse import parse, to_dict
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.files import write_json

SNAPSHOT = 'config.json'
LOCK = '.lock'

# Settings that change neither the numbers of a run nor what its checkpoints mean.
FREE = (
  'checkpoint', 'evaluate', 'faults', 'mesh', 'data.workers', 'data.timeout', 'data.root',
  'data.max_bad_share', 'train.log_every', 'train.evaluate_every', 'train.checkpoint_every',
  'model.scan', 'model.remat', 'model.attention_kernel',
)  # fmt: skip


@contextlib.contextmanager
def occupied(workdir: Path) -> Iterator[None]:
  """Makes the workdir and keeps other trainers out of it, since two would destroy its checkpoints.

  Raises:
    ConfigError: where it cannot be a folder, or another process trains in it.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    handle = (workdir / LOCK).open('w')
  except OSError as error:
    raise ConfigError(
      f'--workdir={workdir} cannot be written: {error.strerror}; give another folder'
    ) from None
  with handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ConfigError(
        f'--workdir={workdir} is in use by another `vivit train`: wait for it or give another'
      ) from None
    except OSError:  # a file system without locks
      pass
    yield


def claim(
  workdir: Path, config: Config, data: str, class_names: Mapping[str, Sequence[str]]
) -> None:
  """Writes the snapshot of a new run, or checks that this command continues the run that is there.

  A run that ended before its first checkpoint binds nobody.

  Args:
    workdir: of the run.
    config: of this command.
    data: fingerprint of the training data.
    class_names: per head, so that the weights can name what they predict without the data.

  Raises:
    ConfigError: naming the settings that differ.
  """
  now = json.loads(json.dumps(to_dict(config)))
  started = any(True for name in (CHECKPOINTS, BEST) for _ in (workdir / name).glob('[0-9]*'))
  if started and (workdir / SNAPSHOT).exists():
    before = _read(workdir)
    # With the defaults of settings that this version has and the run's did not.
    old_config = json.loads(json.dumps(to_dict(read_config(workdir))))
    different = [
      f'config.{name} was {old!r} and is {new!r}'
      for name, old, new in _differences(old_config, now)
      if not any(name == free or name.startswith(free + '.') for free in FREE)
    ]
    if before['data'] != data:
      different.append(f'the training data was {before["data"]} and is {data}')
    if different:
      raise ConfigError(
        f'{workdir} holds another run: {"; ".join(different)}; give another --workdir'
      )
  labels = {head: list(names) for head, names in class_names.items()}
  write_json(
    workdir / SNAPSHOT,
    {'config': now, 'data': data, 'class_names': labels, 'version': __version__},
  )


def read_config(workdir: Path) -> Config:
  """Returns the configuration of a run.

  Raises:
    CheckpointError: where the folder holds no run, or one of settings that this version lacks.
  """
  try:
    return parse(_read(workdir)['config'])
  except ConfigError as error:
    raise CheckpointError(f'{workdir / SNAPSHOT}: {error}') from None


def read_class_names(workdir: Path) -> dict[str, list[str]]:
  """Returns the class names of a run, per head."""
  return _read(workdir)['class_names']


def _read(workdir: Path) -> dict[str, Any]:
  file = workdir / SNAPSHOT
  if not file.is_file():
    raise CheckpointError(
      f'{workdir} holds no run (no {SNAPSHOT}): give the --workdir of a `vivit train`'
    )
  try:
    content = json.loads(file.read_text())
    if isinstance(content['config'], dict):
      return {name: content[name] for name in ('config', 'data', 'class_names')}
    problem = "'config' is not a section"
  except KeyError as error:
    problem = f'it has no {error}'
  except (ValueError, TypeError) as error:
    problem = str(error)
  raise CheckpointError(f'{file} is damaged ({problem}): restore it, or give another --workdir')


def _differences(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for name in {**old, **new}:
      inner = f'{path}.{name}' if path else name
      yield from _differences(old.get(name), new.get(name), inner)
  elif old != new:
    yield path, old, new
