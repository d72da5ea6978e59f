# SPDX-License-Identifier: Apache-2.0
"""Clips: inside the video, evenly spread, different where they can be, looped where too short."""

import numpy as np
import pytest

from vivit_jax.config.schema import Clip
from vivit_jax.data.video.sampling import evaluation_clips, span, training_clip


def times(length, rate=10.0):
  """Times of the frames of a video with a constant rate."""
  return np.arange(length) / rate


def of(frames, stride=2, **kwargs):
  return Clip(frames, stride, height=16, width=16, **kwargs)


def test_training_starts_cover_exactly_those_that_fit(rng):
  clips = [training_clip(times(20), of(4, 3), rng) for _ in range(500)]
  assert {int(c[0]) for c in clips} == set(range(11))
  assert all((np.diff(c) == 3).all() for c in clips)
  assert max(c[-1] for c in clips) == 19


def test_a_short_video_loops_from_its_start(rng):
  np.testing.assert_array_equal(training_clip(times(5), of(4), rng), [0, 2, 4, 1])
  np.testing.assert_array_equal(evaluation_clips(times(5), of(4), 2), [[0, 2, 4, 1]] * 2)
  np.testing.assert_array_equal(training_clip(times(1), of(3), rng), [0, 0, 0])


def test_views_span_the_video_and_one_view_is_central():
  np.testing.assert_array_equal(evaluation_clips(times(20), of(4), 3)[:, 0], [0, 6, 13])
  assert evaluation_clips(times(20), of(4), 3)[-1, -1] == 19
  np.testing.assert_array_equal(evaluation_clips(times(21), of(4), 1), [[7, 9, 11, 13]])


@pytest.mark.parametrize('views', range(2, 9))
def test_views_differ_whenever_there_are_enough_starts(views):
  for length in range(1, 60):
    starts = evaluation_clips(times(length), of(4), views)[:, 0]
    possible = max(1, length - span(4, 2) + 1)
    if possible >= views:
      assert len(set(starts.tolist())) == views
    assert (np.diff(starts) >= 0).all()
    assert starts[-1] == possible - 1


@pytest.mark.parametrize('rate', [10.0, 24000 / 1001, 25.0, 30000 / 1001, 50.0])
def test_a_stride_in_seconds_equals_frames_at_a_constant_rate(rate):
  ticks = np.round(np.arange(90) * 90000 / rate) / 90000  # as a file stores them
  for length in (1, 2, 5, 6, 7, 8, 20, 89):
    for stride in (1, 2, 5):
      by_frames, by_seconds = of(4, stride), of(4, 7, stride_seconds=stride / rate)
      for views in (1, 3):
        np.testing.assert_array_equal(
          evaluation_clips(ticks[:length], by_seconds, views),
          evaluation_clips(ticks[:length], by_frames, views),
        )
      for seed in range(5):
        both = [
          training_clip(ticks[:length], clip, np.random.default_rng(seed))
          for clip in (by_frames, by_seconds)
        ]
        np.testing.assert_array_equal(*both)


def test_a_stride_in_seconds_lasts_as_long_at_any_rate(rng):
  for rate in (12.0, 25.0, 60.0):
    clip = training_clip(times(600, rate), of(16, stride_seconds=0.1), rng)
    np.testing.assert_allclose((clip[-1] - clip[0]) / rate, 1.5, atol=0.5 / rate + 1e-9)


def test_with_a_variable_rate_the_nearest_frames_are_chosen(rng):
  shown = np.cumsum(rng.uniform(0.01, 0.2, 300))
  shown -= shown[0]
  clip = of(8, stride_seconds=0.25)
  starts = set()
  for _ in range(200):
    found = training_clip(shown, clip, rng)
    wanted = shown[found[0]] + 0.25 * np.arange(8)
    np.testing.assert_array_equal(found, np.abs(shown[:, None] - wanted).argmin(axis=0))
    starts.add(int(found[0]))
  assert shown[max(starts)] > shown[-1] - 2.5
  views = evaluation_clips(shown, clip, 3)
  assert views[0, 0] == 0
  np.testing.assert_allclose(shown[views[-1, -1]], shown[-1], atol=0.2)


def test_a_short_video_loops_in_seconds_after_its_last_frame(rng):
  found = training_clip(np.array([0.0, 0.1, 0.3]), of(6, stride_seconds=0.11), rng)
  # Shown until 0.45: the median of 0.1 and 0.2 after 0.3. At 0.44 the first frame is nearer.
  np.testing.assert_array_equal(found, [0, 1, 2, 2, 0, 1])


@pytest.mark.parametrize('length', [1, 3, 8, 9, 30, 31])
def test_whole_videos_give_one_frame_of_each_part(length, rng):
  clip = of(8, sampling='whole_video')
  clips = np.stack([training_clip(times(length), clip, rng) for _ in range(300)])
  bounds = [i * length // 8 for i in range(9)]
  for i, column in enumerate(clips.T):
    assert set(column.tolist()) == set(range(bounds[i], max(bounds[i] + 1, bounds[i + 1])))
  central = evaluation_clips(times(length), clip, 1)
  np.testing.assert_array_equal(central, [[int((i + 0.5) * length / 8) for i in range(8)]])
  views = evaluation_clips(times(length), clip, 3)
  assert sorted(views.ravel().tolist()) == [int((i + 0.5) * length / 24) for i in range(24)]
  np.testing.assert_array_equal(views[1], central[0])
