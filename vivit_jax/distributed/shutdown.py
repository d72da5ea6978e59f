# SPDX-License-Identifier: Apache-2.0
"""How the processes of one run end: all of them, soon, whatever happened to one."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator

from vivit_jax.distributed import hosts
from vivit_jax.distributed.hosts import PATIENCE, Cluster, HostsDifferError
from vivit_jax.errors import report

UNWINDING = 15.0  # seconds for saves under way to end after an error
FAREWELL = 5.0  # seconds in which the others read why one ends


def finish() -> None:
  """Waits until all processes have done their work, then takes leave of them."""
  joined = hosts.joined
  if joined is None:
    return
  import jax

  joined.client.wait_at_barrier('vivit/finish', int(PATIENCE * 1000))
  hosts.joined = None
  jax.distributed.shutdown()
  assert joined.listener is not None
  joined.listener.join()  # now that it cannot hear anything any more


def fail(error: BaseException) -> int:
  """Prints an error and returns the exit code; among others, ends this process and all of them.

  Leaving as usual, this process would wait for the others, which wait for it in a program.
  """
  joined = hosts.joined
  if joined is None or isinstance(error, HostsDifferError):
    code = report(error)
    finish()
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
  """Ends this process in time after an error within, though closing things may wait for others."""
  try:
    yield
  except unless:
    raise
  except Exception as error:
    if hosts.joined is not None:
      timer = threading.Timer(UNWINDING, fail, [error])
      timer.daemon = True
      timer.start()
    raise


def listen(joined: Cluster) -> None:
  """Starts a thread that ends this process as soon as another has failed."""

  def wait() -> None:
    while True:
      try:
        failed, code, why = joined.get('failed')
        break
      except Exception as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          return  # all have finished; or the first process is lost, of which JAX tells
    if failed != joined.process:
      print(f'vivit: process {failed} failed: {why}', file=sys.stderr, flush=True)
      with contextlib.suppress(Exception):
        joined.set(f'ended/{joined.process}', True)
      os._exit(code)

  joined.listener = threading.Thread(target=wait, daemon=True)
  joined.listener.start()


def _end(code: int, why: str, joined: Cluster) -> None:
  """Says why this process ends, and ends it."""
  with contextlib.suppress(Exception):  # another was first, or the service is gone
    joined.set('failed', [joined.process, code, why])
  if joined.process == 0:
    # The service ends with this process, and without it the others would end in many words.
    with contextlib.suppress(Exception):
      for other in range(1, joined.processes):
        joined.get(f'ended/{other}', FAREWELL)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
