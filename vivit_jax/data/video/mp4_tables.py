# SPDX-License-Identifier: Apache-2.0
"""The sample tables of an MP4 or QuickTime file: when each frame is decoded and shown.

PyAV exposes FFmpeg's index one entry at a time, and without presentation times, which differ from
decoding order if there are B-frames. Read as arrays, the tables of an hour-long video take a
millisecond (ISO/IEC 14496-12, 8.6 and 8.7). For unusual files the result is None, and FFmpeg then
reads them packet by packet.
"""

import dataclasses
import io
import os
import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

LEADING = (b'ftyp', b'moov', b'mdat', b'free', b'skip', b'wide')  # boxes that a file begins with
MAX_BOXES = 1000  # outermost
MAX_BYTES = 2**28  # of all tables; 10,000,000 frames with B-frames take 160 MB
MAX_OFFSET = 2**28  # between a frame's decoding and presentation; FFmpeg ignores larger ones


@dataclasses.dataclass(frozen=True)
class Track:
  """One video track, in ticks of its time base; the origin of both times is arbitrary."""

  number: int  # the id of PyAV's stream
  decoded: Int64[np.ndarray, ' n'] | None  # ascending; None = unusual tables
  shown: Int64[np.ndarray, ' n']  # in decoding order
  keys: Int64[np.ndarray, ' k']  # indices of key frames, ascending


@dataclasses.dataclass(frozen=True)
class Tables:
  """The sample tables of a file."""

  most: int  # maximum number of FFmpeg's index entries of a track
  tracks: tuple[Track, ...]


class _NotPlain(Exception):  # noqa: N818
  """Unusual tables, which are left to FFmpeg."""


def read(file: io.BufferedIOBase, few: int, bound: int) -> Tables | None:
  """Returns the tables of a file, or None if it has none or they cannot be read.

  Args:
    file: an MP4 or any other file.
    few: number of samples up to which no tracks are read, because it does not save time.
    bound: limit for `most`, above which no tracks are read.
  """
  try:
    size = file.seek(0, os.SEEK_END)
    moov = _moov(file, size)
    if moov is None:
      return None
    boxes = dict(_boxes(moov))
    tracks = [dict(_boxes(box)) for name, box in _boxes(moov) if name == b'trak']
    most = max((_claimed(track) for track in tracks), default=0)
    if not few < most <= bound or b'mvex' in boxes:  # frames follow in fragments
      return Tables(most, ())
    return Tables(most, tuple(_track(track, size) for track in tracks if _is_video(track)))
  except (struct.error, KeyError, ValueError, IndexError, OverflowError):
    return None


def _moov(file: io.BufferedIOBase, size: int) -> bytes | None:
  at = 0
  for _ in range(MAX_BOXES):
    file.seek(at)
    header = file.read(16)
    if len(header) < 8 or (not at and header[4:8] not in LEADING):
      return None
    length, skip = int.from_bytes(header[:4], 'big'), 8
    if length == 1:  # the true one follows
      length, skip = int.from_bytes(header[8:], 'big'), 16
    elif length == 0:  # to the end
      length = size - at
    if length < skip:
      return None
    if header[4:8] == b'moov':
      if length > min(MAX_BYTES, size - at):
        return None
      file.seek(at + skip)
      return file.read(length - skip)
    at += length
  return None


def _boxes(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
  """Yields (type, content) of the boxes inside a box; raises ValueError if they do not fit."""
  view, at = memoryview(data), 0
  while at + 8 <= len(view):
    length, name = struct.unpack_from('>I4s', view, at)
    skip = 8
    if length == 1:
      (length,), skip = struct.unpack_from('>Q', view, at + 8), 16
    elif length == 0:
      length = len(view) - at
    if length < skip or at + length > len(view):
      raise ValueError(f'box of {length} bytes')
    yield name, view[at + skip : at + length]
    at += length


def _inner(track: dict[bytes, memoryview], *path: bytes) -> dict[bytes, memoryview]:
  for name in path:
    track = dict(_boxes(track[name]))
  return track


def _is_video(track: dict[bytes, memoryview]) -> bool:
  return bytes(_inner(track, b'mdia')[b'hdlr'][8:12]) == b'vide'


def _claimed(track: dict[bytes, memoryview]) -> int:
  """Returns the number of samples for which FFmpeg creates index entries."""
  tables = _inner(track, b'mdia', b'minf', b'stbl')
  if b'stsz' not in tables:
    return 0
  stts, sizes = tables[b'stts'], tables[b'stsz']
  same, count = struct.unpack_from('>2I', sizes, 4)
  if not same:
    count = min(count, len(sizes) // 4 - 3)
  # One tick per sample is uncompressed audio, where an entry holds a whole chunk.
  single = len(stts) == 16 and struct.unpack_from('>3I', stts, 4)[::2] == (1, 1)
  return 0 if single and not _is_video(track) else count


def _track(track: dict[bytes, memoryview], size: int) -> Track:
  header = track[b'tkhd']
  (number,) = struct.unpack_from('>I', header, 20 if header[0] else 12)
  try:
    if b'edts' in track:
      _check_edits(_inner(track, b'edts')[b'elst'])
    tables = _inner(track, b'mdia', b'minf', b'stbl')
    sizes = _sizes(tables[b'stsz'])
    count = len(sizes)
    _check_extent(tables, sizes, size)
    steps, offsets = _spread(tables[b'stts'], count), np.zeros(count, np.int64)
    if b'ctts' in tables:
      offsets = _spread(tables[b'ctts'], count)
    if steps.min() < 0 or np.abs(offsets).max() > MAX_OFFSET:
      raise _NotPlain
    decoded = np.concatenate([[0], np.cumsum(steps[:-1])])
    keys = np.arange(count)
    if b'stss' in tables:
      keys = _numbers(tables[b'stss'], 1)[:, 0] - 1
      if not len(keys) or keys[0] < 0 or keys[-1] >= count or np.any(np.diff(keys) <= 0):
        raise _NotPlain
  except (_NotPlain, KeyError):
    nothing = np.zeros(0, np.int64)
    return Track(number, None, nothing, nothing)
  return Track(number, decoded, decoded + offsets, keys)


def _check_edits(box: memoryview) -> None:
  """Accepts a delay and one cut at the start; FFmpeg's index marks the hidden samples."""
  version, (count,) = box[0], struct.unpack_from('>I', box, 4)
  form = '>Qqhh' if version else '>Iihh'
  edits = [struct.unpack_from(form, box, 8 + k * struct.calcsize(form)) for k in range(count)]
  if edits and edits[0][1] == -1:
    edits = edits[1:]
  if len(edits) > 1 or any(start < 0 or rate != 1 for _, start, rate, _ in edits):
    raise _NotPlain


def _numbers(box: memoryview, columns: int, form: str = '>i4') -> Int64[np.ndarray, 'n columns']:
  """Returns the rows of a table that begins with version, flags and number of rows."""
  (count,) = struct.unpack_from('>I', box, 4)
  width = np.dtype(form).itemsize
  if len(box) < 8 + count * columns * width:
    raise _NotPlain
  flat = np.frombuffer(box, form, count * columns, 8)
  return flat.astype(np.int64).reshape(-1, columns)


def _spread(box: memoryview, count: int) -> Int64[np.ndarray, ' n']:
  """Returns one value per sample from (count, value) pairs."""
  pairs = _numbers(box, 2)
  if (pairs.size and pairs[:, 0].min() < 0) or pairs[:, 0].sum() != count:
    raise _NotPlain
  return np.repeat(pairs[:, 1], pairs[:, 0])


def _sizes(box: memoryview) -> Int64[np.ndarray, ' n']:
  """Returns the size of each sample in bytes; there is at least one, and none is empty."""
  same, count = struct.unpack_from('>2I', box, 4)
  if len(box) < 12 + 4 * count * (not same):
    raise _NotPlain
  each = np.full(count, same) if same else np.frombuffer(box, '>u4', count, 12)
  if not count or not each.min():
    raise _NotPlain
  return each.astype(np.int64)


def _check_extent(tables: dict[bytes, memoryview], sizes: np.ndarray, size: int) -> None:
  """Rejects samples beyond the end of the file."""
  large = b'co64' in tables
  starts = _numbers(tables[b'co64' if large else b'stco'], 1, '>i8' if large else '>u4')[:, 0]
  runs = _numbers(tables[b'stsc'], 3)  # (first chunk, samples of each, description)
  if not len(starts) or not len(runs) or runs[0, 0] != 1 or np.any(np.diff(runs[:, 2])):
    raise _NotPlain
  lengths = np.diff(np.append(runs[:, 0], len(starts) + 1))
  if lengths.min() < 0 or runs[:, 1].min() < 1:
    raise _NotPlain
  counts = np.repeat(runs[:, 1], lengths)
  if counts.sum() != len(sizes):
    raise _NotPlain
  ends = np.cumsum(sizes)[np.cumsum(counts) - 1]
  if np.any(starts < 0) or np.any(starts + np.diff(ends, prepend=0) > size):
    raise _NotPlain
