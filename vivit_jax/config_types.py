# SPDX-License-Identifier: Apache-2.0
"""Kinds of numbers that settings are, with the range that each must lie in."""

import dataclasses
import math
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Range:
  """Closed interval that a number in `Annotated[..., Range(low, high)]` must lie in."""

  low: int | float
  high: int | float = math.inf

  def __str__(self) -> str:
    return f'at least {self.low}' if self.high == math.inf else f'from {self.low} to {self.high}'


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
NonNegative = Annotated[float, Range(0.0)]
Triple = tuple[float, float, float]  # a number per channel
