# SPDX-License-Identifier: Apache-2.0
"""Settings that name user code as `module:name`: checked early, imported when needed."""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import cast

from vivit_jax.errors import ConfigError, nearest

BUILT_IN = ('manifests', 'moving_digits')  # data sources of this package
_NAME = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*')


def is_own(source: str) -> bool:
  """Whether `config.data.source` names user code."""
  return ':' in source


def check_names(source: str, custom: Sequence[str]) -> None:
  """Rejects malformed names; imports nothing.

  Args:
    source: `config.data.source`.
    custom: `config.augment.custom`.

  Raises:
    ConfigError: a name is invalid; the message names the setting.
  """
  own = [('config.augment.custom', name) for name in custom]
  if is_own(source):
    own.append(('config.data.source', source))
  elif source not in BUILT_IN:
    raise ConfigError(
      f'config.data.source={source!r} is not a choice{nearest(source, BUILT_IN)}; '
      "for your own source, write 'module:name', see docs/python.md"
    )
  for setting, name in own:
    if not _NAME.fullmatch(name):
      raise ConfigError(f"{setting}={name!r} is not of the form 'module:name'")
    if name.startswith('__main__:'):
      raise ConfigError(
        f'{setting}={name!r} cannot be imported by worker processes: move it into a separate '
        'module, e.g. a file beside this one'
      )


def import_named(name: str, setting: str) -> Callable[..., object]:
  """Returns the class or function that `module:name` names.

  The current folder is searched last, also when called from the `vivit` command.

  Raises:
    ConfigError: it does not exist, or importing its module fails.
  """
  module_name, _, path = name.partition(':')
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.append(os.getcwd())
  try:
    found: object = importlib.import_module(module_name)
  except Exception as error:
    raise ConfigError(f'{setting}={name!r} cannot be imported: {describe(error)}') from error
  for part in path.split('.'):
    if not hasattr(found, part):
      known = [known for known in dir(found) if not known.startswith('_')]
      raise ConfigError(f'{setting}={name!r}: {module_name} has no {part!r}{nearest(part, known)}')
    found = getattr(found, part)
  if not callable(found):
    raise ConfigError(f'{setting}={name!r} is {type(found).__name__}, not a class or a function')
  return cast(Callable[..., object], found)


def describe(error: Exception) -> str:
  """Returns an exception from user code in one line, with file and line of the user's module."""
  text = ' '.join(str(error).split())
  ours = ('<', os.path.dirname(importlib.__file__))
  frames = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is this package's call
  frames = [frame for frame in frames if not frame.filename.startswith(ours)]
  lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
  where = f' ({os.path.basename(frames[0].filename)} line {lines[-1]})' if lines else ''
  return f'{type(error).__name__}{": " if text else ""}{text}{where}'
