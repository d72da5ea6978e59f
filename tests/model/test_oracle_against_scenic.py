# SPDX-License-Identifier: Apache-2.0
"""The NumPy oracle computes the logits that Scenic's ViViT computed, for all of its variants."""

import numpy as np
import pytest

from support import oracle
from support.reference import CASES, REFERENCE, read_case


def test_cases_are_all_of_the_reference_files():
  assert {path.stem for path in REFERENCE.iterdir()} == set(CASES)


@pytest.mark.parametrize('name', CASES)
def test_logits_agree_with_scenic(name):
  params, settings, arrays = read_case(name)
  logits = oracle.forward(params, arrays['video'], **settings)
  assert logits.dtype == np.float64
  assert logits.shape == arrays['logits'].shape
  difference = np.max(np.abs(logits - arrays['logits']))
  print(f'{name}: largest difference {difference:.2e}')
  assert difference < 1e-5


@pytest.mark.parametrize(
  'frames, sampled, expected',
  [
    (8, 4, [2, 3, 5, 6]),
    (15, 5, [2, 5, 8, 10, 12]),  # 2.5, 5, 7.5, 10, 12.5: halves go to the even neighbour
    (32, 1, [16]),
    (4, 4, [0, 1, 2, 3]),
  ],
)
def test_uniform_frames(frames, sampled, expected):
  assert oracle.uniform_frames(frames, sampled) == expected
