# SPDX-License-Identifier: Apache-2.0
"""When each frame of a file is shown, and where decoding can start; from its index or its packets.

The tables of an MP4 say it without a packet being read. Other containers say it packet by packet,
which reads the whole file: what a large one says is kept (kept_times.py).
"""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from vivit_jax.data.video import kept_times, mp4_tables
from vivit_jax.data.video.diagnose import DecodeError

MAX_FRAMES = 10_000_000  # of a file: four days at 30 a second; an index can claim any number
FFMPEG_MOST = (2**31 - 1) // 24  # samples; for more of them FFmpeg makes no index, by itself
FEW = 100  # samples, whose packets are read in less time than an index is compared
SPOTS = 64  # entries of FFmpeg's index that are compared with ours, and as many at either end


class Timeline(NamedTuple):
  """What random access needs to know of a file."""

  times: Int64[np.ndarray, ' n']  # of all shown frames, ascending; in the stream's time base
  keys: Int64[np.ndarray, 'k 2']  # (time, where to seek to) of key frames, ascending
  counted: bool = False  # no times could be trusted; `times` are then places in decoding order
  claimed: bool = False  # an index says which are key frames, and no packet confirmed it


def read_tables(path: str, content: bytes | None) -> mp4_tables.Tables | None:
  """Returns the index of a file that is an MP4, before FFmpeg opens it.

  Raises:
    DecodeError: FFmpeg would take gigabytes of memory for it.
    OSError: the file cannot be read.
  """
  with open(path, 'rb') if content is None else io.BytesIO(content) as file:
    tables = mp4_tables.read(file, FEW, MAX_FRAMES)
  if tables is not None and MAX_FRAMES < tables.most <= FFMPEG_MOST:
    what = f'its index claims {tables.most:,} samples; {MAX_FRAMES:,} are the most that are read'
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
  """Returns the timeline of a file that has just been opened; at least one frame.

  Args:
    container, stream: PyAV's, at the beginning; where they are afterwards is not said.
    path: for errors.
    tables: of the MP4 that it is.
    kept: what is known from last time, and where to put what is found; None: nowhere.
    count: returns how many frames the decoder gives out, for files without times to trust.

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
  """Returns what the tables say, None unless FFmpeg's own index and the first packet agree."""
  track = next((track for track in tables.tracks if track.number == stream.id), None)
  entries = stream.index_entries
  if track is None or track.decoded is None or len(entries) != len(track.decoded):
    return None
  count = len(entries)
  ends = (*range(min(count, SPOTS)), *range(max(0, count - SPOTS), count))
  spots = np.unique([*ends, *np.linspace(0, count - 1, SPOTS).astype(int)])
  seen = [entries[int(i)] for i in spots]
  if any(entry.is_discard for entry in seen):  # an edit list hides some
    return None
  stamps = np.array([entry.timestamp for entry in seen])
  if np.any(np.diff(stamps - track.decoded[spots])):
    return None
  if first.pts is None or first.dts is None:
    return None
  # An edit list moves all of the times.
  shown = track.shown + (first.pts - track.shown[0])
  decoded = track.decoded + (first.dts - track.decoded[0])
  keys = np.stack([shown, decoded], axis=1)[track.keys]
  return Timeline(_distinct(shown), keys[np.lexsort(keys.T[::-1])], claimed=True)


def _from_packets(stored: Iterable[Any], name: str, stream: Any, path: str) -> Timeline:
  """Returns what the packets of a container of this name say."""
  packets = []
  for p in stored:
    packets.append((p.pts, p.dts, p.is_keyframe, p.is_discard))
    if len(packets) > MAX_FRAMES:
      raise DecodeError(path, f'too large: more than {MAX_FRAMES:,} frames')
  # The counts of other containers are estimates; that of mp4 is its table of samples.
  if 'mp4' in name and len(packets) < (total := stream.frames):
    raise DecodeError(path, f'truncated: {len(packets)} of {total} frames are there')
  times = [pts for pts, _, _, hidden in packets if not hidden]
  if not times:
    raise DecodeError(path, 'no frames')
  # Two recordings in one file, the clock set back: their times say nothing about the order.
  stamps = [dts for _, dts, _, _ in packets if dts is not None]
  restarted = any(later < earlier for earlier, later in itertools.pairwise(stamps))
  # AVI numbers packets, not frames; with B-frames that is another order, and nothing says so.
  # MPEG program streams stamp only some frames: after a seek the others get wrong times.
  renumbered = name == 'avi' and stream.codec_context.has_b_frames
  if None in times or name in ('mpeg', 'mpegvideo') or renumbered or restarted:
    return Timeline(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), counted=True)
  # Key frames that an edit list hides are still where decoding must start.
  keys = sorted(
    (pts, pts if dts is None else dts)
    for pts, dts, is_key, _ in packets
    if is_key and pts is not None
  )
  return Timeline(_distinct(np.array(times, np.int64)), np.array(keys, np.int64).reshape(-1, 2))


def _distinct(times: Int64[np.ndarray, ' n']) -> Int64[np.ndarray, ' m']:
  """Returns the values in order; np.unique takes five times as long for nearly sorted ones."""
  times = np.sort(times, kind='stable')
  return times[np.diff(times, prepend=times[0] - 1) > 0]
