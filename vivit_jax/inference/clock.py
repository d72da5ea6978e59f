# SPDX-License-Identifier: Apache-2.0
"""Layout of windows over a whole video, on a common grid of ticks."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float64, Int64

from vivit_jax.data.video.sampling import Times, evaluation_clips, shown_seconds, span
from vivit_jax.errors import ConfigError, DataError
from vivit_jax.evaluate.predictions import Protocol

TOLERANCE = 0.02  # of a tick: frame rates such as 30000/1001 make hops of whole seconds inexact
MOST = 10_000_000  # ticks per video; more indicate wrong timestamps


@dataclasses.dataclass(frozen=True)
class Windows:
  """The windows of one video, each a clip of the model.

  Attributes:
    frames: frame index of each tick: every frame, or for a stride in seconds the frame nearest to
      each multiple of it.
    times: time of each tick, in seconds after the first frame.
    tick: seconds between ticks; the median if the frame rate varies.
    varies: whether the frame rate varies.
    starts: first tick of each window, `hop` apart.
    hop: ticks between windows.
    stride: ticks between the frames of a window.
    length: frames per window.
    only: ticks of a single window that does not follow from `starts`: the looped window of a video
      shorter than a window, or the central one.
  """

  frames: Int64[np.ndarray, ' ticks']
  times: Float64[np.ndarray, ' ticks']
  tick: float
  varies: bool
  starts: Int64[np.ndarray, ' windows']
  hop: int
  stride: int
  length: int
  only: Int64[np.ndarray, ' length'] | None = None

  def ticks(self) -> Int64[np.ndarray, 'windows length']:
    """Returns the ticks of each window."""
    if self.only is not None:
      return self.only[None]
    return self.starts[:, None] + self.stride * np.arange(self.length)

  def spans(self) -> Float64[np.ndarray, 'windows 2']:
    """Returns start and end of each window in seconds, including the duration of its last frame."""
    return self.steps(self.length)[:, 0]

  def steps(self, frames: int) -> Float64[np.ndarray, 'windows steps 2']:
    """Returns start and end in seconds of each group of `frames` frames (a tubelet) of a window."""
    shown = self.times[self.ticks()].reshape(len(self.starts), -1, frames)
    return np.stack([shown.min(axis=2), shown.max(axis=2) + self.tick], axis=2)


def lay_windows(times: Times, protocol: Protocol, hop: float | None, unit: int) -> Windows:
  """Returns the windows of a video.

  Args:
    times: times of the video's frames in seconds.
    protocol: clip sampling, which must have a stride.
    hop: seconds between windows; None = `unit` frames of a window.
    unit: see hop.

  Raises:
    ConfigError: clips have no fixed length, or the hop is not a whole number of ticks.
  """
  check_hop(protocol, hop)
  shown = shown_seconds(times)
  if protocol.stride_seconds is None:
    frames, at, tick, stride = np.arange(len(times)), times, shown, protocol.stride
  else:
    tick, stride = protocol.stride_seconds, 1
    at = np.arange(_count(times[-1] + shown / 2, tick)) * tick
    frames = nearest_frames(times, at)
  ticks = unit * stride if hop is None else whole_ticks(hop, tick)
  last = len(at) - span(protocol.frames, stride)
  if last < 0:
    return central_window(times, protocol)
  return Windows(
    frames.astype(np.int64),
    at,
    tick,
    bool(len(times) > 2 and np.ptp(np.diff(times)) > 0.5 * shown),
    np.arange(0, last + 1, ticks, dtype=np.int64),
    ticks,
    stride,
    protocol.frames,
  )


def central_window(times: Times, protocol: Protocol) -> Windows:
  """Returns the central clip of a video, the one of `predict --views=1x1`."""
  (shown,) = evaluation_clips(times, protocol.clip, 1)
  frames, tick = np.arange(len(times), dtype=np.int64), shown_seconds(times)
  start = np.array([shown[0]], np.int64)
  return Windows(frames, times, tick, False, start, 1, protocol.stride, protocol.frames, shown)


def _count(seconds: float, tick: float) -> int:
  """Returns the number of ticks up to a time."""
  if seconds / tick > MOST:
    raise DataError(
      f'it lasts {seconds:.6g} s by its time stamps, too long for steps of {tick:g} s'
    )
  return math.floor(seconds / tick) + 1


def check_hop(protocol: Protocol, hop: float | None) -> None:
  """Rejects settings that are invalid for any video; see `lay_windows`."""
  if protocol.sampling != 'stride':
    raise ConfigError(
      'the checkpoint samples its frames from the whole video, so it has no windows: give '
      '--stride=N, or use `vivit predict`'
    )
  if protocol.stride_seconds is not None and protocol.stride_seconds <= 0:
    raise ConfigError(f'clips of frames {protocol.stride_seconds} s apart have no length')
  if hop is not None and not 0 < hop < math.inf:
    raise ConfigError(f'--hop={hop} is not a time: give seconds above 0')


def whole_ticks(hop: float, tick: float) -> int:
  """Converts a hop to ticks; raises ConfigError with the nearest valid hops."""
  ticks = round(hop / tick)
  if ticks >= 1 and abs(hop / tick - ticks) <= max(TOLERANCE, 1e-3 * ticks):
    return ticks
  below, above = math.floor(hop / tick), math.ceil(hop / tick)
  near = ' or '.join(f'{k * tick:.6g}' for k in dict.fromkeys((below, above)) if k)
  raise ConfigError(
    f'--hop={hop:g} is {hop / tick:.3g} steps of {tick:.6g} s, but must be a whole number of '
    f'steps: give {near} s'
  )


def nearest_frames(times: Times, at: Float64[np.ndarray, ' n']) -> Int64[np.ndarray, ' n']:
  """Returns the nearest frame to each time, the earlier one if there is a tie."""
  return np.searchsorted((times[1:] + times[:-1]) / 2, at)
