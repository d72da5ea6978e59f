# SPDX-License-Identifier: Apache-2.0
"""What both services share: optional libraries, and any of their errors as one line."""

import contextlib
import errno
import importlib
from collections.abc import Iterator
from typing import Any, NoReturn

from vivit_jax.errors import CheckpointError
from vivit_jax.remote.attempts import http_status, is_login
from vivit_jax.remote.refusal import UnreachableError, fail

DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


class Store:
  """One address at one service."""

  endpoint = ''
  library = login = by_hand = broken = ''

  def __init__(self, address: str, progress: bool):
    self.address = address
    self.progress = progress

  def fail(self, reason: str) -> NoReturn:
    """Raises a CheckpointError of one line that starts with the address."""
    fail(self.address, reason)

  def load(self, module: str) -> Any:
    """Returns a module of an optional library."""
    try:
      return importlib.import_module(module)
    except ImportError:
      self.fail(f"needs {self.library}: pip install 'vivit_jax[hub]'")

  @contextlib.contextmanager
  def telling(self, doing: str = '') -> Iterator[None]:
    """Turns whatever a library raises into one line: its types differ from version to version."""
    try:
      yield
    except CheckpointError:
      raise
    except Exception as error:
      status = http_status(error)
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
      if status in (401, 403):
        self.fail(f'access was refused (HTTP {status}): {self.login}{self.nearest(error)}')
      if status == 404:
        self.fail(f'does not exist (HTTP 404){self.nearest(error)}')
      if is_login(error):
        self.fail(f'is not public, and there are no good credentials ({reason}): {self.login}')
      if isinstance(error, OSError) and error.errno in DISK:
        self.fail(f'the cache cannot be written: {error}; set VIVIT_CACHE or HF_HOME elsewhere')
      strange = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
      happened = 'gives an answer that makes no sense' if strange else 'cannot be reached'
      happened = f'{doing} broke off' if doing else happened
      kept = self.broken if doing else 'try again when there is a network'
      remedy = f'; {kept}, or fetch it by hand (`{self.by_hand}`) and give the local path'
      raise UnreachableError(f'{self.address}: {happened} ({reason})', remedy) from error

  def nearest(self, error: Exception) -> str:
    """Returns '; nearest: ...', as far as the service tells."""
    return ''
