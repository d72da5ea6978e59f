# SPDX-License-Identifier: Apache-2.0
"""Mistakes a user can mend: each message is one line naming value, place and remedy."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

SAFE_CONVERSION = (
  'Unpickling runs code from the file, so it is refused. Where you trust it, convert it once, '
  'elsewhere, with PyTorch: python -c "import torch, safetensors.torch as s; '
  "t = torch.load('IN.bin', weights_only=True); t = t.get('model', t); "
  "s.save_file({k: v.contiguous().clone() for k, v in t.items()}, 'OUT.safetensors')\""
)


def printable(text: str) -> str:
  """Returns text of a file or a path with what could move a terminal's cursor written as escapes.

  Line breaks too: a name cannot begin a line of its own.
  """
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


class UserError(Exception):
  """Base of all errors that the command line prints without a traceback."""

  def __str__(self) -> str:
    """Returns the message, which may quote files, safe for a terminal."""
    return '\n'.join(map(printable, super().__str__().split('\n')))


class ConfigError(UserError, ValueError):
  """A setting that cannot be used."""


class InputError(UserError, ValueError):
  """Frames that a model cannot take."""


class DataError(UserError):
  """A manifest, class list or video that cannot be used."""


class CheckpointError(UserError):
  """A checkpoint that is missing, damaged or of another model.

  Args:
    parts: the file or folder if the message is about one, and the reason, which names the remedy.

  Attributes:
    reason: what is wrong, in one line without the file.
  """

  def __init__(self, *parts: str | Path):
    self.reason = ' '.join(str(parts[-1]).split())
    super().__init__(': '.join([*map(str, parts[:-1]), self.reason]))


class DamagedError(CheckpointError):
  """A checkpoint of which something is missing or changed since it was written."""


class SaveError(CheckpointError):
  """A checkpoint that could not be written."""

  def __init__(self, message: str, *, disk_full: bool):
    super().__init__(message)
    self.disk_full = disk_full


class TrainingError(UserError):
  """A run whose numbers went wrong."""


class EvaluationError(UserError):
  """An evaluation that did not see all that it was to see."""


def one_line(error: BaseException, limit: int | None = None) -> str:
  """Returns type and text of an error of a library in one line of at most so many characters."""
  return ' '.join(f'{type(error).__name__}: {error}'.split())[:limit]


def closest(name: str, known: Iterable[str]) -> str | None:
  """Returns the known name that is most like `name`; None if none is like it."""
  return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean X?' for the closest known name, else the choices."""
  known = list(known)
  if close := closest(name, known):
    return f'; did you mean {close!r}?'
  return f'; choose from {and_more(map(repr, known), 20)}'


def and_more(names: Iterable[str], limit: int = 5) -> str:
  """Returns names for a message: the first few, and how many more there are."""
  names = list(names)
  more = len(names) - limit
  return ', '.join(names[:limit]) + (f' and {more} more' if more > 0 else '')


def report(error: BaseException) -> int:
  """Prints a user's mistake in one line and returns the exit code; raises any other error."""
  if isinstance(error, KeyboardInterrupt):
    print('vivit: interrupted', file=sys.stderr)
    return 130
  if isinstance(error, UserError):
    message = str(error)
  elif isinstance(error, OSError):
    where = printable(str(error.filename or ''))
    message = f'{where}: {error.strerror or error}'.removeprefix(': ')
  else:
    raise error
  print(f'vivit: error: {message}', file=sys.stderr)
  return 2
