# SPDX-License-Identifier: Apache-2.0
"""Clips: inside the video, evenly spread, different where they can be, looped where too short."""

import numpy as np
import pytest

from vivit_jax.data.clips import evaluation_clips, span, training_clip


def test_training_starts_cover_exactly_those_that_fit(rng):
  clips = [training_clip(20, 4, 3, rng) for _ in range(500)]
  assert {int(c[0]) for c in clips} == set(range(11))
  assert all((np.diff(c) == 3).all() for c in clips)
  assert max(c[-1] for c in clips) == 19


def test_a_short_video_loops_from_its_start(rng):
  np.testing.assert_array_equal(training_clip(5, 4, 2, rng), [0, 2, 4, 1])
  np.testing.assert_array_equal(evaluation_clips(5, 4, 2, 2), [[0, 2, 4, 1]] * 2)
  np.testing.assert_array_equal(training_clip(1, 3, 2, rng), [0, 0, 0])


def test_views_go_from_the_first_frame_to_the_last_and_one_view_is_central():
  np.testing.assert_array_equal(evaluation_clips(20, 4, 2, 3)[:, 0], [0, 6, 13])
  assert evaluation_clips(20, 4, 2, 3)[-1, -1] == 19
  np.testing.assert_array_equal(evaluation_clips(21, 4, 2, 1), [[7, 9, 11, 13]])


@pytest.mark.parametrize('views', range(2, 9))
def test_views_differ_whenever_there_are_enough_starts(views):
  for length in range(1, 60):
    starts = evaluation_clips(length, 4, 2, views)[:, 0]
    possible = max(1, length - span(4, 2) + 1)
    if possible >= views:
      assert len(set(starts.tolist())) == views
    assert (np.diff(starts) >= 0).all()
    assert starts[-1] == possible - 1
