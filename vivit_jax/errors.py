# SPDX-License-Identifier: Apache-2.0
"""User errors: each message is one line that names the value, the place and the remedy."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path

SAFE_CONVERSION = (
  'Unpickling runs code from the file, so it is refused. If you trust it, convert it once '
  'on another machine, with PyTorch: python -c "import torch, safetensors.torch as s; '
  "t = torch.load('IN.bin', weights_only=True); t = t.get('model', t); "
  "s.save_file({k: v.contiguous().clone() for k, v in t.items()}, 'OUT.safetensors')\""
)


def printable(text: str) -> str:
  """Returns text with all characters that control a terminal written as escapes.

  Line breaks are escaped too, so a file name in a message cannot start a new line.
  """
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text)


class UserError(Exception):
  """Base of all errors that the command line prints without a traceback."""

  def __str__(self) -> str:
    """Returns the message with terminal control characters escaped; it may quote files."""
    return '\n'.join(map(printable, super().__str__().split('\n')))


class ConfigError(UserError, ValueError):
  """An invalid setting."""


class InputError(UserError, ValueError):
  """Video frames with a shape, type or range that the model does not accept."""


class DataError(UserError):
  """An invalid manifest, class list or video."""


class CheckpointError(UserError):
  """A checkpoint that is missing, damaged or incompatible with the model.

  Args:
    parts: the file or folder, if the message concerns one, then the reason with the remedy.

  Attributes:
    reason: the problem in one line, without the file name.
  """

  def __init__(self, *parts: str | Path):
    self.reason = ' '.join(str(parts[-1]).split())
    super().__init__(': '.join([*map(str, parts[:-1]), self.reason]))


class DamagedError(CheckpointError):
  """A checkpoint with missing files, or files that changed after it was written."""


class SaveError(CheckpointError):
  """A checkpoint that could not be written."""

  def __init__(self, message: str, *, disk_full: bool):
    super().__init__(message)
    self.disk_full = disk_full


class TrainingError(UserError):
  """A training run that diverged."""


class EvaluationError(UserError):
  """An evaluation that could not process every example."""


def one_line(error: BaseException, limit: int | None = None) -> str:
  """Returns the type and text of an exception in one line, cut to `limit` characters if given."""
  return ' '.join(f'{type(error).__name__}: {error}'.split())[:limit]


def closest(name: str, known: Iterable[str]) -> str | None:
  """Returns the known name most similar to `name`, or None if none is similar."""
  return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean X?' for the most similar known name, otherwise a list of choices."""
  known = list(known)
  if close := closest(name, known):
    return f'; did you mean {close!r}?'
  return f'; choose from {and_more(map(repr, known), 20)}'


def and_more(names: Iterable[str], limit: int = 5) -> str:
  """Returns the first `limit` names, comma-separated, and the number of remaining ones."""
  names = list(names)
  more = len(names) - limit
  return ', '.join(names[:limit]) + (f' and {more} more' if more > 0 else '')


def report(error: BaseException) -> int:
  """Prints a `UserError` in one line and returns the exit code; re-raises other errors."""
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
