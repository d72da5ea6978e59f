# SPDX-License-Identifier: Apache-2.0
"""Scenic's twenty training steps, and how far ours may be from them."""

from pathlib import Path

REFERENCE = Path(__file__).parent.parent / 'reference'
CASES = sorted(path.stem for path in (REFERENCE / 'scenic_steps').glob('*.npz'))
LOSS, NORM, PARAMETERS = 2e-5, 1e-4, 5e-6  # largest differences
