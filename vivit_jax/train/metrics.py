# SPDX-License-Identifier: Apache-2.0
"""Metrics of the steps since the last log row, fetched late so that devices never wait."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vivit_jax.train.device_clock import DeviceClock

SKIPPED = 'skipped_updates'

Metrics = Mapping[str, Any]  # arrays on the devices, or numbers


class MetricsBuffer:
  """Collects the metrics of steps until they are logged.

  Attributes:
    consecutive_skips: the last steps whose updates were skipped, as far as steps are known: `add`
      leaves the newest step unread, the other methods say what they read.
    idle_since: when the devices had finished the newest step, see `DeviceClock`.
  """

  def __init__(self, step: int = 0, rows: Sequence[Metrics] = ()) -> None:
    """Starts with the rows that a run had buffered when it was saved at `step`."""
    self.consecutive_skips: list[int] = []
    self._rows: deque[tuple[int, Metrics]] = deque((step, row) for row in rows)
    self._unread: deque[tuple[int, Metrics]] = deque()
    self._clock = DeviceClock()
    self.idle_since = self._clock.idle_since

  def add(self, step: int, metrics: Metrics) -> None:
    """Adds the metrics of a step and blocks until the step before it has finished.

    Without that bound, each step in flight would hold a batch on the devices, and the time to fetch
    its metrics would look like waiting for data.
    """
    for value in metrics.values():
      value.copy_to_host_async()  # is there when the step is, so that nobody asks for it then
    self._clock.dispatched(metrics[SKIPPED])
    self._rows.append((step, metrics))
    self._unread.append((step, metrics))
    self._read(step - 1)

  def last_step_skipped(self) -> bool:
    """Returns whether the newest step's update was skipped; blocks until that step has finished."""
    if self._unread:
      self._read(self._unread[-1][0])
    return bool(self.consecutive_skips)

  def rows(self) -> list[dict[str, float]]:
    """Returns the buffered rows, oldest first; blocks until the newest step has finished."""
    return _floats([row for _, row in self._rows])

  def take_mean(self, step: int) -> dict[str, float]:
    """Removes the rows up to `step` and returns their means; empty if there are none.

    Blocks until `step` has finished. The means are over the steps whose update was applied;
    `skipped_updates` is the number of other steps.
    """
    self._read(step)
    taken = []
    while self._rows and self._rows[0][0] <= step:
      taken.append(self._rows.popleft()[1])
    rows = _floats(taken)
    if not rows:
      return {}
    applied = [row for row in rows if not row[SKIPPED]] or rows
    means = {name: float(np.mean([row[name] for row in applied])) for name in rows[0]}
    return {**means, SKIPPED: sum(row[SKIPPED] for row in rows)}

  def _read(self, step: int) -> None:
    """Blocks until `step` has finished and records which steps up to it were skipped."""
    while self._unread and self._unread[0][0] <= step:
      read, metrics = self._unread.popleft()
      skipped = metrics[SKIPPED].item()
      self.consecutive_skips = [*self.consecutive_skips, read] if skipped else []


def _floats(rows: list[Metrics]) -> list[dict[str, float]]:
  return [{name: float(x) for name, x in row.items()} for row in jax.device_get(rows)]
