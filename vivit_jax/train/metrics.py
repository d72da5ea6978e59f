# SPDX-License-Identifier: Apache-2.0
"""Metrics of the steps since the last row of the log, fetched late, so that devices never wait."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

SKIPPED = 'skipped_updates'

Metrics = Mapping[str, Any]  # arrays on the devices, or numbers


class Window:
  """Collects the metrics of steps.

  Attributes:
    in_row: the last steps looked at whose update was skipped, one after the other. `add` looks at
      all but the newest step, all else that asks for numbers at that too.
  """

  def __init__(self, rows: Sequence[dict[str, float]] = ()) -> None:
    """Takes the `rows` that a run which goes on had collected."""
    self.in_row: list[int] = []
    self._rows: list[Metrics] = list(rows)
    self._ahead: deque[tuple[int, Metrics]] = deque()  # not looked at

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Adds a step's metrics, and waits for the step before it.

    Unbounded, the steps in flight would each hold a batch on the devices, and fetching it would
    look like waiting for data.
    """
    self._rows.append(metrics)
    self._ahead.append((step, metrics))
    self._look(1)

  def at_work(self) -> bool:
    """Returns whether the last step has not ended."""
    values: list[Any] = [value for _, metrics in self._ahead for value in metrics.values()]
    return not all(value.is_ready() for value in values)

  def skipping(self) -> bool:
    """Returns whether the update of the last step was skipped."""
    self._look(0)
    return bool(self.in_row)

  def rows(self) -> list[dict[str, float]]:
    """Returns what was collected."""
    self._look(0)
    rows = jax.device_get(self._rows)
    return [{name: float(value) for name, value in row.items()} for row in rows]

  def mean(self) -> dict[str, float]:
    """Returns means over the steps whose update was applied, how many were not, and starts anew."""
    rows, self._rows = self.rows(), []
    applied = [row for row in rows if not row[SKIPPED]] or rows
    means = {name: float(np.mean([row[name] for row in applied])) for name in rows[0]}
    return {**means, SKIPPED: sum(row[SKIPPED] for row in rows)}

  def _look(self, ahead: int) -> None:
    """Looks at all steps but so many, which waits for them."""
    while len(self._ahead) > ahead:
      step, metrics = self._ahead.popleft()
      self.in_row = [*self.in_row, step] if metrics[SKIPPED].item() else []
