# SPDX-License-Identifier: Apache-2.0
"""Early stopping: how many evaluations in a row were no better than the best before them."""

import math
from collections.abc import Iterable, Mapping

STOPPED = 'stopped_early'  # column, 1 in the row of the evaluation that ended a run


class Patience:
  """Counts from the log alone, so that a resumed run counts as one that was never stopped."""

  def __init__(
    self, allowed: int | None, score: str | None, rows: Iterable[Mapping[str, int | float]] = ()
  ):
    """Begins after the evaluations that were logged.

    Args:
      allowed: evaluations in a row without a better one; None = any number.
      score: name of the metric that chooses the best; of equal ones, the lower loss is better.
        None if the loss alone chooses.
      rows: metrics of evaluations, in their order.
    """
    self._allowed, self._score = allowed, score
    self._best: tuple[float, float] | None = None
    self.waited = 0
    for row in rows:
      self.add(row)

  def add(self, metrics: Mapping[str, int | float]) -> None:
    """Counts one evaluation; NaN ranks worst."""
    score = 0.0 if self._score is None else metrics[self._score]
    loss = metrics.get('loss', math.nan)  # earlier versions did not log it
    found = (
      -math.inf if math.isnan(score) else score,
      -math.inf if math.isnan(loss) else -loss,
    )
    better = self._best is None or found > self._best
    self._best = found if better else self._best
    self.waited = 0 if better else self.waited + 1

  @property
  def is_over(self) -> bool:
    """Whether the run is to end."""
    return self._allowed is not None and self.waited >= self._allowed
