# SPDX-License-Identifier: Apache-2.0
"""Accounts for the time of a run: every second belongs to one activity."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from tqdm import tqdm

from vivit_jax.distributed import hosts

ACTIVITIES = ('step', 'input', 'evaluation', 'checkpoint', 'compile', 'start')
COMPILING = '/jax/core/compile/'  # JAX's events for tracing, lowering and compiling


class Goodput:
  """Divides the time since its construction into activities; a context manager for one thread.

  On exit it prints the shares, if any input was read.

  Attributes:
    seconds: by activity; their sum is the time up to the last call of `spent`. In `step` devices
      compute or receive work, in `input` they wait for videos, in `checkpoint` for a save; `start`
      is everything before the first step.
  """

  def __init__(self) -> None:
    self.seconds = dict.fromkeys(ACTIVITIES, 0.0)
    self._since = time.monotonic()
    self._compiled = 0.0
    self._thread = threading.get_ident()

  def __enter__(self) -> 'Goodput':
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def __exit__(self, *_: Any) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listen)
    if self.seconds['input'] and hosts.is_first():
      print(self.summary(), flush=True)

  def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(COMPILING) and threading.get_ident() == self._thread:
      self._compiled += duration_secs

  def spent(self, activity: str, until: float = math.inf) -> None:
    """Adds the time since the last call to an activity, except compilation, which is one itself.

    Args:
      activity: one of ACTIVITIES.
      until: when it ended, if that lies between the last call and now.
    """
    now = min(max(until, self._since), time.monotonic())
    compiled = min(self._compiled, now - self._since)
    self.seconds['compile'] += compiled
    self.seconds[activity] += now - self._since - compiled
    self._since, self._compiled = now, 0.0

  @contextlib.contextmanager
  def during(self, activity: str) -> Iterator[None]:
    """Adds the time within the block to an activity, and the time before it to `step`."""
    self.spent('step')
    try:
      yield
    finally:
      self.spent(activity)

  def summary(self) -> str:
    """Returns the shares in one line."""
    total = sum(self.seconds.values())
    shares = ', '.join(f'{name} {self.seconds[name] / total:.0%}' for name in ACTIVITIES)
    return f'time: {shares} of {tqdm.format_interval(total)}'
