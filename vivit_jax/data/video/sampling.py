# SPDX-License-Identifier: Apache-2.0
"""Frame indices of clips, computed from frame numbers and times alone.

A clip has `n` frames, sampled in one of four ways by `Clip.sampling` and `Clip.stride_seconds`:

- frames that are `stride` frames apart;
- the frames nearest to times that are `stride_seconds` apart, for any fixed or variable frame rate;
- `whole_video`: one frame from each of n equal parts of the video, in testing the middle one;
- `whole_video_first`: the same, but in testing the first one.

In the first two, a video shorter than the clip is looped: frame number `length` is frame 0 again.
"""

import numpy as np
from jaxtyping import Float64, Int64

from vivit_jax.config.schema import Clip

Times = Float64[np.ndarray, ' length']  # seconds since the first frame, ascending


def span(n: int, stride: int) -> int:
  """Returns the number of video frames from the first to the last of a clip, inclusive."""
  return (n - 1) * stride + 1


def training_clip(times: Times, clip: Clip, rng: np.random.Generator) -> Int64[np.ndarray, ' n']:
  """Returns the frame indices of one random clip.

  The start is uniform among the frames from which the clip fits; with whole-video sampling, the
  frame of each part is uniform within it.

  Args:
    times: times of the video's frames, at least one; a short video starts at 0 and loops.
    clip: number of frames and sampling.
    rng: used for one number, or with whole-video sampling one per frame.
  """
  if clip.sampling != 'stride':
    bounds = np.arange(clip.frames + 1) * len(times) // clip.frames
    # A part may be empty if the video has fewer frames than the clip.
    return bounds[:-1] + rng.integers(np.maximum(1, np.diff(bounds)))
  return _indices(times, clip, int(rng.integers(_last_start(times, clip) + 1)))


def evaluation_clips(times: Times, clip: Clip, views: int) -> Int64[np.ndarray, 'views n']:
  """Returns the frame indices of `views` clips, evenly spaced in the video.

  The first clip starts at frame 0 and the last one ends at the last frame; a single view is
  central. All starts differ if there are at least `views` possible starts, because
  k * last // (views - 1) grows by at least 1 with k if last >= views - 1. With whole-video
  sampling, each part is divided into `views` equal pieces, and view k takes the middle or first
  frame of the k-th piece.
  """
  if clip.sampling != 'stride':
    count, half = clip.frames * views, int(clip.sampling == 'whole_video')
    pieces = (2 * np.arange(count) + half) * len(times) // (2 * count)
    return pieces.reshape(clip.frames, views).T
  last = _last_start(times, clip)
  starts = [last // 2] if views == 1 else [k * last // (views - 1) for k in range(views)]
  return np.stack([_indices(times, clip, start) for start in starts])


def _last_start(times: Times, clip: Clip) -> int:
  """Returns the last frame from which the clip fits into the video, or 0 if there is none."""
  if clip.stride_seconds is None:
    return max(0, len(times) - span(clip.frames, clip.stride))
  latest = times[-1] + shown_seconds(times) / 2 - (clip.frames - 1) * clip.stride_seconds
  return max(0, int(np.searchsorted(times, latest)) - 1)


def _indices(times: Times, clip: Clip, start: int) -> Int64[np.ndarray, ' n']:
  steps = np.arange(clip.frames, dtype=np.int64)
  if clip.stride_seconds is None:
    return (start + clip.stride * steps) % len(times)
  wanted = (times[start] + clip.stride_seconds * steps) % (times[-1] + shown_seconds(times))
  # The time until which each frame is the nearest; the video loops after the last frame.
  until = np.append((times[1:] + times[:-1]) / 2, times[-1] + shown_seconds(times) / 2)
  return np.searchsorted(until, wanted) % len(times)


def shown_seconds(times: Times) -> float:
  """Returns the assumed duration of the last frame in seconds: the typical frame duration."""
  return float(np.median(np.diff(times))) if len(times) > 1 else 1.0
