# SPDX-License-Identifier: Apache-2.0
"""Shutdown of all processes of a run together, also if one of them fails."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator

from vivit_jax.distributed import hosts
from vivit_jax.distributed.hosts import EXCHANGE_TIMEOUT_SECONDS, Cluster, HostsDifferError
from vivit_jax.errors import report

UNWIND_TIMEOUT_SECONDS = 15.0  # after an error, for saves in progress to finish
GOODBYE_TIMEOUT_SECONDS = 5.0  # for the other processes to read the error


def exit_cleanly() -> None:
  """Waits until all processes have finished, then disconnects from them."""
  joined = hosts.joined
  if joined is None:
    return
  import jax

  joined.client.wait_at_barrier('vivit/finish', int(EXCHANGE_TIMEOUT_SECONDS * 1000))
  hosts.joined = None
  jax.distributed.shutdown()
  assert joined.listener is not None
  joined.listener.join()  # its connection is closed


def exit_with_error(error: BaseException) -> int:
  """Prints an error and returns the exit code; in a multi-process run, ends all processes.

  A normal exit would deadlock: it waits for the other processes, which wait in a collective.
  """
  joined = hosts.joined
  if joined is None or isinstance(error, HostsDifferError):
    code = report(error)
    exit_cleanly()
    return code
  why = str(error) or type(error).__name__
  try:
    code = report(error)
  except BaseException:
    traceback.print_exception(error)
    code, why = 1, traceback.format_exception_only(error)[0].strip()
  _end(code, why, joined)
  return code


@contextlib.contextmanager
def bounded_unwinding(unless: type[Exception]) -> Iterator[None]:
  """Limits the time for cleanup after an error, since cleanup may block; then ends the process."""
  try:
    yield
  except unless:
    raise
  except Exception as error:
    if hosts.joined is not None:
      timer = threading.Timer(UNWIND_TIMEOUT_SECONDS, exit_with_error, [error])
      timer.daemon = True
      timer.start()
    raise


def listen(joined: Cluster) -> None:
  """Starts a thread that ends this process as soon as another process fails."""

  def wait() -> None:
    while True:
      try:
        failed, code, why = joined.get('failed')
        break
      except Exception as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          return  # all have finished, or process 0 is lost, which JAX reports
    if failed != joined.process:
      print(f'vivit: process {failed} failed: {why}', file=sys.stderr, flush=True)
      with contextlib.suppress(Exception):
        joined.set(f'ended/{joined.process}', True)
      os._exit(code)

  joined.listener = threading.Thread(target=wait, daemon=True)
  joined.listener.start()


def _end(code: int, why: str, joined: Cluster) -> None:
  """Posts the reason to the other processes and exits."""
  with contextlib.suppress(Exception):  # another process failed first, or the service is gone
    joined.set('failed', [joined.process, code, why])
  if joined.process == 0:
    # This process hosts the service. If it ended first, the others would print C++ stack traces.
    with contextlib.suppress(Exception):
      for other in range(1, joined.processes):
        joined.get(f'ended/{other}', GOODBYE_TIMEOUT_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
