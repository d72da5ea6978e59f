# SPDX-License-Identifier: Apache-2.0
"""What the user reads where an address cannot be served: one line, with the nearest names."""

import difflib
from collections.abc import Iterable
from typing import NoReturn

from vivit_jax.errors import CheckpointError


class UnreachableError(CheckpointError):
  """No answer from the server; a copy in the cache may do."""

  def __init__(self, what: str, remedy: str):
    self.what = what
    super().__init__(f'{what}{remedy}')


def fail(address: str, reason: str) -> NoReturn:
  """Raises a CheckpointError of one line."""
  raise CheckpointError(f'{address}: {" ".join(reason.split())}')


def near(name: str, names: Iterable[str]) -> str:
  """Returns '; nearest: ...', or what there is where nothing is near."""
  names = list(names)
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  return f'; nearest: {", ".join(close)}' if close else f'; there are: {some(names) or "none"}'


def some(names: Iterable[str]) -> str:
  """Returns the first names and how many more there are."""
  names = list(names)
  return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
