# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video a clip shows: integer arithmetic, no video needed.

A clip is `n` frames, each `stride` frames after the one before. A video shorter than that span is
looped from its first frame: index i of the clip shows frame i mod length.
"""

import numpy as np
from jaxtyping import Int64


def span(n: int, stride: int) -> int:
  """Returns how many frames of the video lie from a clip's first to its last, inclusive."""
  return (n - 1) * stride + 1


def training_clip(
  length: int, n: int, stride: int, rng: np.random.Generator
) -> Int64[np.ndarray, ' n']:
  """Returns the frame indices of one clip, its start uniform among those that fit.

  Args:
    length: frames of the video, at least 1; a short video starts at 0 and loops.
    n: frames of the clip.
    stride: in frames of the video.
    rng: draws the start.
  """
  last_start = max(0, length - span(n, stride))
  return _indices(length, n, stride, int(rng.integers(last_start + 1)))


def evaluation_clips(length: int, n: int, stride: int, views: int) -> Int64[np.ndarray, 'views n']:
  """Returns the frame indices of `views` clips spread evenly over the video.

  The first starts at frame 0 and the last ends at the last frame; a single view is the central
  one. Starts differ whenever there are as many possible starts as views: k * last // (views - 1)
  grows by at least 1 with k if last >= views - 1.
  """
  last_start = max(0, length - span(n, stride))
  if views == 1:
    starts = [last_start // 2]
  else:
    starts = [k * last_start // (views - 1) for k in range(views)]
  return np.stack([_indices(length, n, stride, start) for start in starts])


def _indices(length: int, n: int, stride: int, start: int) -> Int64[np.ndarray, ' n']:
  return (start + stride * np.arange(n, dtype=np.int64)) % length
