# SPDX-License-Identifier: Apache-2.0
"""Profiler traces of a range of training steps."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import jax

from vivit_jax.errors import ConfigError

FOLDER = 'profile'


@dataclasses.dataclass(frozen=True)
class Steps:
  """An inclusive range of steps, numbered as in the log."""

  first: int
  last: int

  def __str__(self) -> str:
    return f'{self.first}:{self.last}'


def parse_steps(text: str) -> Steps:
  """Returns the range given as `FIRST:LAST`.

  Raises:
    ConfigError: the text is not a range.
  """
  match = re.fullmatch(r'([1-9]\d*):([1-9]\d*)', text)
  if match is None or int(match[1]) > int(match[2]):
    raise ConfigError(f'--profile={text} is not FIRST:LAST, steps from 1, e.g. --profile=100:105')
  return Steps(int(match[1]), int(match[2]))


class Profiler:
  """Traces a range of steps into `workdir/profile`; a context manager."""

  def __init__(self, wanted: Steps | None, workdir: Path, start: int, steps: int):
    """Takes the range to trace in a run of the steps [start + 1, steps].

    Raises:
      ConfigError: the range ends after the run.
    """
    if wanted is not None and wanted.last > steps:
      raise ConfigError(
        f'--profile={wanted} ends after the {steps} steps of this run: give earlier steps'
      )
    if wanted is not None and wanted.last <= start:
      print(
        f'vivit: warning: --profile={wanted} traces nothing: this run resumes after step {start}',
        file=sys.stderr,
        flush=True,
      )
      wanted = None
    self._wanted, self._start = wanted, start
    self._folder = workdir / FOLDER
    self._since: int | None = None  # first step of the current trace

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *_: Any) -> None:
    if self._since is not None:
      jax.profiler.stop_trace()

  def before(self, step: int) -> None:
    """Starts the trace if this is the first step to trace."""
    if self._wanted is not None and step == max(self._wanted.first, self._start + 1):
      jax.profiler.start_trace(self._folder)
      self._since = step

  def after(self, step: int, outputs: Any) -> None:
    """Stops the trace if this is the last step to trace; blocks until its outputs are ready."""
    if self._since is None or self._wanted is None or step != self._wanted.last:
      return
    jax.block_until_ready(outputs)
    jax.profiler.stop_trace()
    trace = max(self._folder.rglob('*.trace.json.gz'), key=lambda file: file.stat().st_mtime)
    print(
      f'trace of steps {self._since} to {step}: open {trace} at https://ui.perfetto.dev, or its '
      f'folder with `pip install xprof` and `xprof --logdir={self._folder}`',
      flush=True,
    )
    self._since = None
