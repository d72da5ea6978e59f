# SPDX-License-Identifier: Apache-2.0
"""Yields the pixels of a video's windows or tubelets in batches, from one decode."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64, UInt8

from vivit_jax.data.augmentation.views import Views, views_of
from vivit_jax.data.video.stream import VideoStream
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.predictions import Protocol

Batch = tuple[int, UInt8[np.ndarray, 'b n h w 3']]  # number of real rows; pixels
Watcher = Callable[[float, UInt8[np.ndarray, 'h w 3']], None]  # called with seconds and frame


def center_crop(protocol: Protocol) -> Views:
  """Returns the crop of a single view."""
  return views_of(protocol.clip, 1, protocol.short_side)


def with_window(protocol: Protocol, seconds: float | None) -> Protocol:
  """Returns a protocol whose clips last `seconds`; None = unchanged."""
  if seconds is None:
    return protocol
  if not 0 < seconds < float('inf'):
    raise ConfigError(f'--window={seconds} is not a time: give seconds above 0')
  return dataclasses.replace(
    protocol,
    stride_seconds=seconds / protocol.frames,
    sampling='stride',
    stride_from='argument',
  )


def batches(
  video: VideoStream,
  shown: Int64[np.ndarray, 'rows n'],
  crops: Views,
  size: int,
  watch: Watcher | None = None,
) -> Iterator[Batch]:
  """Yields the pixels of rows of frames in batches of `size` rows, zero-padded at the end.

  Frames are kept only as long as a row needs them.

  Args:
    video: video to read.
    shown: frame indices of each row; the minimum and the maximum must ascend from row to row.
    crops: crops with a single box.
    size: rows per batch.
    watch: called with the time in seconds and each frame when it is decoded.

  Raises:
    DecodeError: a frame cannot be read.
  """
  kept: dict[int, np.ndarray] = {}
  batch = np.zeros((size, shown.shape[1], crops.height, crops.width, 3), np.uint8)
  row = filled = 0
  last, first = shown.max(axis=1), shown.min(axis=1)
  for index, frame in video.stream(np.unique(shown), crops):
    kept[index] = frame[0]
    if watch is not None:
      watch(float(video.times[index]), frame[0])
    while row < len(shown) and last[row] <= index:
      batch[filled] = [kept[i] for i in shown[row].tolist()]
      row, filled = row + 1, filled + 1
      oldest = first[row] if row < len(shown) else index + 1
      for gone in [i for i in kept if i < oldest]:
        del kept[gone]
      if filled == size:
        yield filled, batch
        batch, filled = np.zeros_like(batch), 0
  if filled:
    yield filled, batch


def run_ahead(
  function: Callable[[np.ndarray], jax.Array], batches: Iterable[Batch]
) -> Iterator[np.ndarray]:
  """Yields function(pixels) without padding rows; decodes while the device computes."""
  pending: tuple[int, Any] | None = None
  for rows, pixels in batches:
    started = rows, function(pixels)
    if pending is not None:
      yield np.asarray(pending[1])[: pending[0]]
    pending = started
  if pending is not None:
    yield np.asarray(pending[1])[: pending[0]]
