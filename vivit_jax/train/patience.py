# SPDX-License-Identifier: Apache-2.0
"""Early stopping after a number of evaluations in a row without a new best."""

import math
from collections.abc import Iterable, Mapping

STOPPED = 'stopped_early'  # metrics column; 1 in the row of the evaluation that ended a run


class Patience:
  """Counts evaluations without a new best; derived only from the log, so it survives resumption."""

  def __init__(
    self, allowed: int | None, score: str, rows: Iterable[Mapping[str, int | float]] = ()
  ):
    """Starts from the evaluations that were logged so far.

    Args:
      allowed: maximum number of evaluations in a row without a new best; None = unlimited.
      score: name of the metric that determines the best; ties are broken by the lower loss.
      rows: metrics of the evaluations, in order.
    """
    self._allowed, self._score = allowed, score
    self._best: tuple[float, float] | None = None
    self.waited = 0
    for row in rows:
      self.add(row)

  def add(self, metrics: Mapping[str, int | float]) -> None:
    """Counts an evaluation; NaN ranks lowest."""
    score = metrics[self._score]
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
