# SPDX-License-Identifier: Apache-2.0
"""config.json in the workdir, and the check whether a command may resume its run."""

import contextlib
import datetime
import getpass
import json
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from vivit_jax import __version__
from vivit_jax.checkpoint.manager import BEST, CHECKPOINTS
from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.renamed import modernize
from vivit_jax.config.schema import Config
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.files import LockedError, locked, naming, write_json

SNAPSHOT = 'config.json'
LOCK = '.lock'

# Sections that define the meaning of the weights. Checkpoints store them, except settings in FREE.
MEANING = ('task', 'model', 'clip')

# Settings that affect neither the results of a run nor the meaning of its checkpoints.
FREE = (
  'checkpoint', 'evaluate', 'faults', 'mesh', 'data.workers', 'data.decode_timeout_seconds',
  'data.root', 'data.max_bad_fraction', 'train.grad_accum_steps', 'train.log_every',
  'train.evaluate_every', 'train.checkpoint_every', 'model.scan', 'model.remat',
  'model.attention_kernel', 'model.gradient_dtype', 'train.patience', 'log',
)  # fmt: skip


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
  """Creates and locks the workdir; two trainers would overwrite each other's checkpoints.

  The lock is released when the process ends, even if it is killed.

  Raises:
    ConfigError: the folder cannot be created, or another process is training in it.
  """
  with contextlib.ExitStack() as stack:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      handle = stack.enter_context(locked(workdir / LOCK, f'--workdir={workdir}'))
    except LockedError as error:
      owner = f' ({error.owner})' if error.owner else ''
      raise ConfigError(
        f'--workdir={workdir} is in use by another `vivit train`{owner}: wait for it or give '
        'another folder'
      ) from None
    except OSError as error:
      raise ConfigError(
        f'--workdir={workdir} cannot be written: {error.strerror}; give another folder'
      ) from None
    with naming(workdir / LOCK):
      handle.truncate(0)
      handle.write(f'{_this_process()}\n'.encode())
    yield


def _this_process() -> str:
  try:
    user = getpass.getuser()
  except (KeyError, OSError):  # the user ID has no name, e.g. in a container
    user = str(os.getuid())
  now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
  return f'process {os.getpid()} of {user} on {socket.gethostname()} since {now}'


def check_compatible(
  workdir: Path,
  config: Config,
  data: str,
  allow_changes: bool = False,
  saved: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
  """Returns the differences between this command and the run in the workdir, and prints them.

  If the run has no checkpoint yet, any configuration may be used.

  Args:
    workdir: workdir of the run.
    config: config of this command.
    data: fingerprint of the training data.
    allow_changes: whether differences are allowed.
    saved: JSON values stored in the checkpoints (see `Checkpoints.abouts`). Their settings are
      compared too, in case config.json was edited.

  Raises:
    ConfigError: there are differences and `allow_changes` is False; names the settings.
  """
  different = []
  history: list[dict[str, Any]] = []
  if _saved(workdir) and (workdir / SNAPSHOT).exists():
    # Settings that are newer than the run get their defaults.
    different = [
      f'config.{name} was {old!r} and is {new!r}'
      for name, old, new in _differences(_plain(read_config(workdir)), _plain(config))
      if not _is_free(name)
    ]
    content = _read(workdir)
    history = [*content['changes'], {'after_step': math.inf, 'changes': list(different)}]
    if content['data'] != data:
      different.append(f'the training data was {content["data"]} and is {data}')
  different += dict.fromkeys(
    f'config.{name} is {old!r} in the checkpoints and {new!r} in this command'
    for about in saved
    for name, old, new in _contradictions(config, about, history)
  )
  if different and not allow_changes:
    raise ConfigError(
      f'{workdir} holds another run: {"; ".join(different)}; give another --workdir, or '
      '--allow-changes to continue from its last checkpoint with these changes'
    )
  for line in different:
    print(f'vivit: warning: changed in this run: {line}', file=sys.stderr, flush=True)
  return different


def write_snapshot(
  workdir: Path,
  config: Config,
  data: str,
  class_names: Mapping[str, Sequence[str]],
  changes: Sequence[str] = (),
) -> None:
  """Writes config.json for a new run, or updates it for a resumed run.

  Args:
    workdir: workdir of the run.
    config: config of this command.
    data: fingerprint of the training data.
    class_names: class names per head, so that predictions can be named without the data.
    changes: result of `check_compatible`; recorded with the last step before the change.
  """
  saved = _saved(workdir)
  history = _read(workdir)['changes'] if saved and (workdir / SNAPSHOT).exists() else []
  if changes:
    history = [*history, {'after_step': max(saved), 'changes': list(changes)}]
  labels = {head: list(names) for head, names in class_names.items()}
  content = {
    'config': _plain(config), 'data': data, 'class_names': labels, 'changes': history,
    'version': __version__,
  }  # fmt: skip
  write_json(workdir / SNAPSHOT, content)


def meaning(config: Config) -> dict[str, Any]:
  """Returns the settings that define the meaning of the weights, by name such as `model.gelu`."""
  plain = _plain(config)
  settings = flatten_dict({section: plain[section] for section in MEANING}, sep='.')
  return {name: value for name, value in settings.items() if not _is_free(name)}


def config_of_weights(workdir: Path, about: Mapping[str, Any]) -> Config:
  """Returns the config of a run with the settings under which these weights were saved.

  They are the settings of config.json unless `--allow-changes` has changed some later.

  Args:
    workdir: workdir of the run.
    about: JSON values stored with the weights; earlier versions stored no settings.

  Raises:
    CheckpointError: config.json differs, and `--allow-changes` was not used to change it.
  """
  config, step = read_config(workdir), about['step']
  for name, saved, found in _contradictions(config, about, _read(workdir)['changes']):
    raise CheckpointError(
      f'{workdir / SNAPSHOT} has config.{name}={found!r}, but the weights of step {step} were '
      f'saved with {saved!r}: put that back'
    )
  settings = flatten_dict(_plain(config), sep='.')
  own = {name: value for name, value in about.get('settings', {}).items() if name in settings}
  return parse(unflatten_dict(settings | own, sep='.'))


def _contradictions(
  config: Config, about: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
  """Yields name, saved value and current value of settings changed without `--allow-changes`."""
  now = meaning(config)
  later = [line for entry in history if entry['after_step'] >= about['step']
           for line in entry['changes']]  # fmt: skip
  for name, value in about.get('settings', {}).items():
    explained = any(line.startswith(f'config.{name} ') for line in later)
    if name in now and now[name] != value and not explained:
      yield name, value, now[name]


def _is_free(name: str) -> bool:
  return any(name == free or name.startswith(free + '.') for free in FREE)


def _saved(workdir: Path) -> list[int]:
  """Returns the steps that have a checkpoint."""
  folders = [path for part in (CHECKPOINTS, BEST) for path in (workdir / part).glob('[0-9]*')]
  return [int(path.name) for path in folders if path.name.isdecimal()]


def _plain(config: Config) -> dict[str, Any]:
  """Returns the settings as JSON values."""
  return json.loads(json.dumps(to_dict(config)))


def read_config(workdir: Path) -> Config:
  """Returns the config of a run.

  Raises:
    CheckpointError: the folder has no run, or this version does not have all of its settings.
  """
  try:
    return parse(modernize(_read(workdir)['config']))
  except ConfigError as error:
    raise CheckpointError(f'{workdir / SNAPSHOT}: {error}') from None


def read_class_names(workdir: Path) -> dict[str, list[str]]:
  """Returns the class names of a run by head."""
  return _read(workdir)['class_names']


def _read(workdir: Path) -> dict[str, Any]:
  file = workdir / SNAPSHOT
  if not file.is_file():
    raise CheckpointError(
      f'{workdir} has no run (no {SNAPSHOT}): give the --workdir of a `vivit train`'
    )
  try:
    content = json.loads(file.read_bytes())
    found = {name: content[name] for name in CONTENT if name != 'changes'}
    found['changes'] = content.get('changes', [])
    wrong = [name for name, value in found.items() if not CONTENT[name](value)]
    if not wrong:
      return found
    problem = f'{wrong[0]!r} has a wrong type'
  except KeyError as error:
    problem = f'it has no {error}'
  except (ValueError, TypeError, RecursionError) as error:
    problem = str(error)
  raise CheckpointError(f'{file} is damaged ({problem}): restore it, or give another --workdir')


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(text, str) for text in value)


# The entries of config.json, each with a check of its type.
CONTENT: dict[str, Callable[[Any], bool]] = {
  'config': lambda value: isinstance(value, dict),
  'data': lambda value: isinstance(value, str),
  'class_names': lambda value: isinstance(value, dict) and all(map(_are_texts, value.values())),
  'changes': lambda value: (
    isinstance(value, list)
    and all(
      isinstance(entry, dict)
      and isinstance(entry.get('after_step'), int)
      and _are_texts(entry.get('changes'))
      for entry in value
    )
  ),
}


def _differences(old: Any, new: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for name in {**old, **new}:
      inner = f'{path}.{name}' if path else name
      yield from _differences(old.get(name), new.get(name), inner)
  elif old != new:
    yield path, old, new
