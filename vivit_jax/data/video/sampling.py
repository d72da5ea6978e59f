# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video a clip shows: arithmetic on frame numbers and times, no video needed.

A clip is `n` frames, by `Clip.sampling` and `Clip.stride_seconds` in one of four ways:

- each `stride` frames after the one before;
- each `stride_seconds` after the one before, the frames nearest to those times, whatever the frame
  rate and however it varies;
- `whole_video`: one from each of n equal parts of the video, in testing the middle one;
- `whole_video_first`: the same, but in testing the first one.

In the first two a video shorter than the clip is looped: frame length is frame 0 again.
"""

import numpy as np
from jaxtyping import Float64, Int64

from vivit_jax.config.schema import Clip

Times = Float64[np.ndarray, ' length']  # seconds since the first frame, ascending


def span(n: int, stride: int) -> int:
  """Returns how many frames of the video lie from a clip's first to its last, inclusive."""
  return (n - 1) * stride + 1


def training_clip(times: Times, clip: Clip, rng: np.random.Generator) -> Int64[np.ndarray, ' n']:
  """Returns the frame indices of one random clip.

  Its start is uniform among the frames from which it fits; for whole videos the frame of each part
  is uniform among those in it.

  Args:
    times: of the video's frames, at least one; a short video starts at 0 and loops.
    clip: frames and how they are sampled.
    rng: draws one number, or for whole videos one per frame.
  """
  if clip.sampling != 'stride':
    bounds = np.arange(clip.frames + 1) * len(times) // clip.frames
    # A part may hold no frame of its own where the video has fewer frames than the clip.
    return bounds[:-1] + rng.integers(np.maximum(1, np.diff(bounds)))
  return _indices(times, clip, int(rng.integers(_last_start(times, clip) + 1)))


def evaluation_clips(times: Times, clip: Clip, views: int) -> Int64[np.ndarray, 'views n']:
  """Returns the frame indices of `views` clips spread evenly over the video.

  The first starts at frame 0 and the last ends at the last frame; a single view is the central
  one. Starts differ whenever there are as many possible starts as views: k * last // (views - 1)
  grows by at least 1 with k if last >= views - 1. For whole videos, view k takes the middle, or the
  first, of the k-th of `views` equal pieces of each part.
  """
  if clip.sampling != 'stride':
    count, half = clip.frames * views, int(clip.sampling == 'whole_video')
    pieces = (2 * np.arange(count) + half) * len(times) // (2 * count)
    return pieces.reshape(clip.frames, views).T
  last = _last_start(times, clip)
  starts = [last // 2] if views == 1 else [k * last // (views - 1) for k in range(views)]
  return np.stack([_indices(times, clip, start) for start in starts])


def _last_start(times: Times, clip: Clip) -> int:
  """Returns the last frame from which the clip fits into the video; 0 where none does."""
  if clip.stride_seconds is None:
    return max(0, len(times) - span(clip.frames, clip.stride))
  latest = times[-1] + shown_seconds(times) / 2 - (clip.frames - 1) * clip.stride_seconds
  return max(0, int(np.searchsorted(times, latest)) - 1)


def _indices(times: Times, clip: Clip, start: int) -> Int64[np.ndarray, ' n']:
  steps = np.arange(clip.frames, dtype=np.int64)
  if clip.stride_seconds is None:
    return (start + clip.stride * steps) % len(times)
  wanted = (times[start] + clip.stride_seconds * steps) % (times[-1] + shown_seconds(times))
  # Up to which time each frame is the nearest; after the last one comes the first again.
  until = np.append((times[1:] + times[:-1]) / 2, times[-1] + shown_seconds(times) / 2)
  return np.searchsorted(until, wanted) % len(times)


def shown_seconds(times: Times) -> float:
  """Returns for how many seconds the last frame is shown: as long as most others."""
  return float(np.median(np.diff(times))) if len(times) > 1 else 1.0
