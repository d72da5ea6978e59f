# SPDX-License-Identifier: Apache-2.0
"""Calls over a network: how often they are tried, and what their errors mean."""

import time
from collections.abc import Callable
from typing import TypeVar

CONNECT_SECONDS = 10  # to open a connection, or for the hub to answer about a file
PAUSES = (0.5, 2.0)  # seconds before the second and the third attempt
BUSY = (408, 429, 500, 502, 503, 504)  # answers that another attempt may better

T = TypeVar('T')


def attempt(call: Callable[[], T]) -> T:
  """Calls again after a broken connection or a busy server, never after a clear answer."""
  for pause in PAUSES:
    try:
      return call()
    except Exception as error:
      if http_status(error) not in (None, *BUSY) or is_login(error):
        raise
    time.sleep(pause)
  return call()


def http_status(error: Exception) -> int | None:
  """Returns the HTTP status in an error of httpx, requests, the hub or Google; None without one."""
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  return status or getattr(error, 'code', None)


def is_login(error: Exception) -> bool:
  """Whether Google's library found no credentials, or bad ones."""
  return type(error).__module__.startswith('google.auth')
