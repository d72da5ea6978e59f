# SPDX-License-Identifier: Apache-2.0
"""Protocol between a timed program and the timing program: one JSON object per line."""

# Imported by programs of both frameworks, so it needs the standard library alone, and of ours only
# the allocator's settings, which need no more.

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable

from vivit_jax.distributed.allocator import keep_freed_blocks


@dataclasses.dataclass(frozen=True)
class Contest:
  """One program and the shapes of its work."""

  program: str
  attention: str
  size: str = 'B'
  frames: int = 32
  pixels: int = 112
  batch: int = 4
  dtype: str = 'float32'
  classes: int = 400
  allocator: str = 'glibc'  # or mimalloc, with the settings of `vivit train`


def arguments() -> Contest:
  """Returns what this program was started for."""
  return Contest(**json.loads(sys.argv[1]))


def serve(
  step: Callable[[], None],
  device_peak: Callable[[], int | None],
  matrix: tuple[Callable[[], object], float],
  notes: Callable[[], list[str]],
) -> None:
  """Runs the first step, then the number of steps in each line of standard input.

  Args:
    step: one update, waited for.
    device_peak: most bytes that the device held, where it has its own memory.
    matrix: a large matrix product, waited for, and its FLOPs.
    notes: how this program runs here, and what it skips and why; called after the first step.
  """
  keep_freed_blocks()  # does nothing under glibc
  step()
  first = time.time()
  _say(first_step_at=first, notes=notes())
  product, flops = matrix
  for line in sys.stdin:
    steps = int(line)
    if steps:
      began = time.perf_counter()
      for _ in range(steps):
        step()
      _say(seconds=(time.perf_counter() - began) / steps)
      continue
    # The process's peak, before the product allocates anything.
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = device_peak() or kilobytes * 1024
    resident = _resident_bytes()
    product()
    times = []
    for _ in range(5):
      began = time.perf_counter()
      product()
      times.append(time.perf_counter() - began)
    _say(peak_bytes=peak, resident_bytes=resident, matrix_flops_per_second=flops / min(times))


def _resident_bytes() -> int:
  with open('/proc/self/statm', encoding='ascii') as file:
    return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def _say(**values: float | list[str]) -> None:
  print(json.dumps(values), flush=True)
