# SPDX-License-Identifier: Apache-2.0
"""Early stopping after a number of evaluations in a row without a new best."""

import math
from collections.abc import Iterable, Mapping

STOPPED = 'stopped_early'  # metrics column; 1 in the row of the evaluation that ended a run


class Patience:
  """Counts evaluations without a new best; derived only from the log, so it survives resumption."""

  def __init__(
    self, allowed: int | None, score: str | None, rows: Iterable[Mapping[str, int | float]] = ()
  ):
    """Starts from the evaluations that were logged so far.

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
    """Counts an evaluation; NaN ranks lowest."""
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
    """Whether the run should end."""
    return self._allowed is not None and self.waited >= self._allowed
