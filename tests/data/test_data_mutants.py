# SPDX-License-Identifier: Apache-2.0
"""Damaged videos of every container: each is read or refused, soon and in little memory."""

import sys
from pathlib import Path

from vivit_jax.data.video.diagnose import ERRORS

sys.path.insert(0, str(Path(__file__).parent.parent.parent / 'experiments'))

from mutants import DAMAGE, SOURCES, survey

MUTANTS = 100
MEGABYTES = 64  # for videos whose frames take one; 1,000 took 8 at most


def test_damaged_videos_are_read_or_refused_and_cost_no_process():
  outcomes = survey(MUTANTS)
  assert len(outcomes) == MUTANTS
  assert {o.source for o in outcomes} == set(SOURCES)
  assert {o.damage for o in outcomes} == set(DAMAGE)
  assert [o for o in outcomes if o.result == 'lost process'] == []
  assert max(o.megabytes for o in outcomes) < MEGABYTES
  refused = [o for o in outcomes if o.result == 'refused']
  assert MUTANTS // 3 < len(refused) < MUTANTS
  names = tuple(error.__name__ for error in ERRORS)
  assert not [o.reason for o in refused if '\n' in o.reason or o.reason.startswith(names)]
  # Without their index, frames cannot be found: none of these may be taken for whole.
  cut = [o for o in outcomes if o.damage == 'cut off' and o.source == 'mp4 H.264']
  assert cut
  assert all(o.result == 'refused' for o in cut)
