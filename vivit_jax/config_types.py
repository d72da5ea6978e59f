# SPDX-License-Identifier: Apache-2.0
"""Kinds of numbers that settings are, with the range that each must lie in."""

import dataclasses
import math
from typing import Annotated

LARGEST = 2**31 - 1  # that steps and sizes may be: JAX counts in 32 bits


@dataclasses.dataclass(frozen=True)
class Range:
  """Interval that a number in `Annotated[..., Range(low, high)]` must lie in.

  Attributes:
    low: the least.
    high: the largest, which must not be reached where `below` is true.
  """

  low: int | float
  high: int | float = math.inf
  below: bool = False

  def __contains__(self, value: int | float) -> bool:
    return (
      math.isfinite(value)
      and self.low <= value <= self.high
      and not (self.below and value == self.high)
    )

  def needs(self, value: int | float) -> str:
    """Returns what a number that does not lie in it should be; a limit of the machine only where
    it is what was passed."""
    if self.high < LARGEST:
      return f'from {self.low} to {"below " if self.below else ""}{self.high}'
    return f'at most {self.high}' if self.high < value < math.inf else f'at least {self.low}'


Count = Annotated[int, Range(1, LARGEST)]
CountOrZero = Annotated[int, Range(0, LARGEST)]
Fraction = Annotated[float, Range(0.0, 1.0)]
Rate = Annotated[float, Range(0.0, 1.0, below=True)]  # at 1 nothing would be left
NonNegative = Annotated[float, Range(0.0)]
Layers = Annotated[int, Range(1, 1000)]  # far more than were ever trained; each is traced
LayersOrZero = Annotated[int, Range(0, 1000)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # of which JAX's generator keeps 32 bits
Seconds = Annotated[float, Range(0.0, 1e8)]  # three years: timers of the machine end somewhere
Triple = tuple[float, float, float]  # a number per channel
