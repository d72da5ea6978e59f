# SPDX-License-Identifier: Apache-2.0
"""Metrics of the steps since the last row of the log, fetched late, so that devices never wait."""

from collections import deque
from typing import Any

import jax
import numpy as np

SKIPPED = 'skipped_updates'

Metrics = dict[str, jax.Array]


class Window:
  """Collects the metrics of steps.

  Attributes:
    in_row: the last steps looked at whose update was skipped, one after the other. `add` looks at
      all but the newest step, `mean` and `skipping` at that too.
  """

  def __init__(self) -> None:
    self.in_row: list[int] = []
    self._rows: list[Metrics] = []
    self._ahead: deque[tuple[int, Metrics]] = deque()  # not looked at

  def add(self, step: int, metrics: Metrics) -> None:
    """Adds a step's metrics, and waits for the step before it.

    Unbounded, the steps in flight would each hold a batch on the devices, and fetching it would
    look like waiting for data.
    """
    self._rows.append(metrics)
    self._ahead.append((step, metrics))
    self._look(1)

  def at_work(self) -> bool:
    """Returns whether the last step has not ended."""
    values: list[Any] = [value for row in self._rows[-1:] for value in row.values()]
    return not all(value.is_ready() for value in values)

  def skipping(self) -> bool:
    """Returns, once the last step has ended, whether its update was skipped."""
    self._look(0)
    return bool(self.in_row)

  def mean(self) -> dict[str, float]:
    """Returns means over the steps whose update was applied, how many were not, and starts anew."""
    self._look(0)
    rows = jax.device_get(self._rows)
    self._rows = []
    applied = [row for row in rows if not row[SKIPPED]] or rows
    means = {name: float(np.mean([row[name] for row in applied])) for name in rows[0]}
    return {**means, SKIPPED: float(sum(row[SKIPPED] for row in rows))}

  def _look(self, ahead: int) -> None:
    """Looks at all steps but so many."""
    while len(self._ahead) > ahead:
      step, metrics = self._ahead.popleft()
      self.in_row = [*self.in_row, step] if metrics[SKIPPED].item() else []
