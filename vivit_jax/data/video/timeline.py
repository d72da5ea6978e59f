# SPDX-License-Identifier: Apache-2.0
"""Presentation times of all frames and positions of key frames, from the index or the packets.

In MP4 they are read from tables, without reading packets. For other containers all packets are
read, which reads the whole file; for large files the result is cached (kept_times.py).
"""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from vivit_jax.data.video import kept_times, mp4_tables
from vivit_jax.data.video.diagnose import DecodeError

MAX_FRAMES = 10_000_000  # per file: four days at 30 fps; an index can claim any number
FFMPEG_MOST = (2**31 - 1) // 24  # samples; above, FFmpeg creates no index
FEW = 100  # samples; reading this many packets is faster than comparing indexes
SPOTS = 64  # entries of FFmpeg's index to compare with ours, and as many at either end


class Timeline(NamedTuple):
  """Data for random access to the frames of a file."""

  times: Int64[np.ndarray, ' n']  # of all displayed frames, ascending; in the stream's time base
  keys: Int64[np.ndarray, 'k 2']  # (time, seek target) of key frames, ascending
  counted: bool = False  # timestamps are unreliable; `times` are positions in decoding order
  claimed: bool = False  # key frames are from an index and not confirmed by packets


def read_tables(path: str, content: bytes | None) -> mp4_tables.Tables | None:
  """Returns the sample tables of a file if it is an MP4; called before FFmpeg opens it.

  Raises:
    DecodeError: FFmpeg would need gigabytes of memory for it.
    OSError: the file cannot be read.
  """
  with open(path, 'rb') if content is None else io.BytesIO(content) as file:
    tables = mp4_tables.read(file, FEW, MAX_FRAMES)
  if tables is not None and MAX_FRAMES < tables.most <= FFMPEG_MOST:
    what = f'its index claims {tables.most:,} samples, more than the limit of {MAX_FRAMES:,}'
    raise DecodeError(path, f'too large: {what}')
  return tables


def find(
  container: Any,
  stream: Any,
  path: str,
  tables: mp4_tables.Tables | None,
  kept: kept_times.Kept | None,
  count: Callable[[], int],
) -> Timeline:
  """Returns the timeline of a newly opened file, with at least one frame.

  Args:
    container, stream: PyAV objects, positioned at the start; their final position is undefined.
    path: path for error messages.
    tables: sample tables if the file is an MP4.
    kept: cache entry of the file, read and written; None = no cache.
    count: returns the number of decoder output frames, for files with unreliable timestamps.

  Raises:
    DecodeError: frames are missing.
    diagnose.ERRORS: the file is damaged.
  """
  packets: Iterator[Any] = (packet for packet in container.demux(stream) if packet.size)
  if tables is not None and (first := next(packets, None)) is not None:
    if (found := _from_tables(stream, tables, first)) is not None:
      return found
    packets = itertools.chain([first], packets)
  if kept is not None and (arrays := kept.load()) is not None:
    return Timeline(*arrays)
  found = _from_packets(packets, container.format.name, stream, path)
  if found.counted:
    found = found._replace(times=np.arange(count()))
  if kept is not None:
    kept.keep(found.times, found.keys, found.counted)
  return found


def _from_tables(stream: Any, tables: mp4_tables.Tables, first: Any) -> Timeline | None:
  """Returns the timeline from tables, or None if FFmpeg's index or the first packet disagree."""
  track = next((track for track in tables.tracks if track.number == stream.id), None)
  entries = stream.index_entries
  if track is None or track.decoded is None or len(entries) != len(track.decoded):
    return None
  count = len(entries)
  ends = (*range(min(count, SPOTS)), *range(max(0, count - SPOTS), count))
  spots = np.unique([*ends, *np.linspace(0, count - 1, SPOTS).astype(int)])
  seen = [entries[int(i)] for i in spots]
  if any(entry.is_discard for entry in seen):  # hidden by an edit list
    return None
  stamps = np.array([entry.timestamp for entry in seen])
  if np.any(np.diff(stamps - track.decoded[spots])):
    return None
  if first.pts is None or first.dts is None:
    return None
  # An edit list shifts all times.
  shown = track.shown + (first.pts - track.shown[0])
  decoded = track.decoded + (first.dts - track.decoded[0])
  keys = np.stack([shown, decoded], axis=1)[track.keys]
  return Timeline(_distinct(shown), keys[np.lexsort(keys.T[::-1])], claimed=True)


def _from_packets(stored: Iterable[Any], name: str, stream: Any, path: str) -> Timeline:
  """Returns the timeline from all packets; `name` is that of the container."""
  packets = []
  for p in stored:
    packets.append((p.pts, p.dts, p.is_keyframe, p.is_discard))
    if len(packets) > MAX_FRAMES:
      raise DecodeError(path, f'too large: more than {MAX_FRAMES:,} frames')
  # The frame count of mp4 is exact (its sample table); in other containers it is an estimate.
  if 'mp4' in name and len(packets) < (total := stream.frames):
    raise DecodeError(path, f'truncated: {len(packets)} of {total} frames are there')
  times = [pts for pts, _, _, hidden in packets if not hidden]
  if not times:
    raise DecodeError(path, 'no frames')
  # If timestamps go back (e.g. two recordings in one file), they do not give the frame order.
  stamps = [dts for _, dts, _, _ in packets if dts is not None]
  restarted = any(later < earlier for earlier, later in itertools.pairwise(stamps))
  # AVI timestamps number the packets, which is a different order if there are B-frames. MPEG
  # program streams have timestamps for some frames only; after a seek the others get wrong times.
  renumbered = name == 'avi' and stream.codec_context.has_b_frames
  if None in times or name in ('mpeg', 'mpegvideo') or renumbered or restarted:
    return Timeline(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), counted=True)
  # Decoding can also start at key frames hidden by an edit list.
  keys = sorted(
    (pts, pts if dts is None else dts)
    for pts, dts, is_key, _ in packets
    if is_key and pts is not None
  )
  return Timeline(_distinct(np.array(times, np.int64)), np.array(keys, np.int64).reshape(-1, 2))


def _distinct(times: Int64[np.ndarray, ' n']) -> Int64[np.ndarray, ' m']:
  """Returns the sorted distinct values; 5x faster than np.unique for nearly sorted input."""
  times = np.sort(times, kind='stable')
  return times[np.diff(times, prepend=times[0] - 1) > 0]
