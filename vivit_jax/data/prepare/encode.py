# SPDX-License-Identifier: Apache-2.0
"""Prepares one video for storage: checks every frame and, if requested, re-encodes it."""

import dataclasses
import hashlib
import io
from bisect import bisect_left
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from vivit_jax.data.video.diagnose import ERRORS, reason, special_file
from vivit_jax.data.video.reader import LOCAL, OPEN_OPTIONS, DecodeError, VideoReader

KEY_FRAMES = 12  # with x264's default of 250, decoding 32 random frames takes twice as long
ENCODER = {
  'crf': '18',  # x264's constant quality, high enough that re-encoding does not affect training
  # No arithmetic coding, no deblocking: decoding 32 frames of a synthetic 340x256 video takes 14 ms
  # of CPU time instead of 31; files are 12 % larger.
  'tune': 'fastdecode',
  'threads': '1',  # videos are encoded in parallel
  # Otherwise x264 uses CPU-specific approximations, and one video in five was not reproducible.
  'x264-params': 'cpu-independent=1',
}
HELD = 2**28  # maximum bytes of frames in memory


@dataclasses.dataclass(frozen=True)
class Encoding:
  """Encoding of stored videos; None = unchanged."""

  short_side: int | None = None  # pixels; smaller videos are not enlarged
  key_frames: int | None = None  # interval in frames


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about a stored video."""

  frames: int
  fps: float  # mean frames per second; 0 if there is only one frame
  size: int  # bytes
  sha256: str


def is_copied(start: float | None, end: float | None, encoding: Encoding) -> bool:
  """Returns whether a video is stored unchanged: neither a span nor an encoding is requested."""
  return (start, end) == (None, None) and encoding == Encoding()


def stored_video(
  path: str, start: float | None, end: float | None, encoding: Encoding
) -> tuple[bytes, Facts]:
  """Returns the bytes to store for a span of a video.

  The frames between start and end are those of VideoReader: upright, with square pixels. Re-encoded
  videos keep the frame times, have no sound, and have even sizes as required by 4:2:0.

  Raises:
    DecodeError: a frame cannot be read.
  """
  if is_copied(start, end, encoding):
    try:
      if special := special_file(path):  # a pipe would block
        raise DecodeError(path, special)
      content = Path(path).read_bytes()
    except OSError as error:
      raise DecodeError(path, reason(error)) from error
  else:
    content = _encode(path, start, end, encoding)
  with VideoReader(path, content=content) as reader:
    frames, seconds = reader.frames, reader.seconds
    reader.verify()
  rate = (frames - 1) / seconds if seconds else 0.0
  return content, Facts(frames, rate, len(content), hashlib.sha256(content).hexdigest())


def _encode(path: str, start: float | None, end: float | None, encoding: Encoding) -> bytes:
  with VideoReader(path, start, end) as reader:
    times, unit = _times(path, start, end, reader)
    first = reader.read(np.array([0]))[0]
    height, width = _size(first.shape[0], first.shape[1], encoding.short_side)
    held = max(1, HELD // (height * width * 3))
    file = io.BytesIO()
    try:
      with av.open(file, 'w', format='mp4') as container:
        options = {**ENCODER, 'g': str(encoding.key_frames or KEY_FRAMES)}
        stream = container.add_stream('libx264', rate=_rate(reader), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, 'yuv420p'
        stream.codec_context.time_base = stream.time_base = unit
        for low in range(0, reader.frames, held):
          indices = np.arange(low, min(low + held, reader.frames))
          images = reader.read(indices, lambda frame: _resize(frame, height, width))
          for index, image in zip(indices, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = times[index], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    except ERRORS as error:
      raise DecodeError(path, f'cannot be encoded: {reason(error)}') from error
    content = file.getvalue()
    with VideoReader(path, content=content) as written:
      if written.frames != reader.frames:
        raise DecodeError(path, f'{written.frames} of {reader.frames} frames could be encoded')
  return content


def _rate(reader: VideoReader) -> Fraction:
  rate = (reader.frames - 1) / reader.seconds if reader.seconds else 25
  return Fraction(rate).limit_denominator(1001)


def _times(
  path: str, start: float | None, end: float | None, reader: VideoReader
) -> tuple[list[int], Fraction]:
  """Returns the presentation time of each frame, starting at 0, and its unit in seconds."""
  with av.open(LOCAL + path, container_options=OPEN_OPTIONS) as container:
    stream = container.streams.video[0]
    packets = [(p.pts, p.is_discard) for p in container.demux(stream) if p.size]
    unit = stream.time_base
  shown = {time for time, hidden in packets if not hidden}
  if unit is not None and None not in shown:
    times = sorted(time for time in shown if time is not None)
    seconds = [(time - times[0]) * float(unit) for time in times]
    low = 0 if start is None else bisect_left(seconds, start)
    high = len(times) if end is None else bisect_left(seconds, end)
    if high - low == reader.frames:
      return [time - times[low] for time in times[low:high]], Fraction(unit)  # from PyAV's type
  # In files with unreliable timestamps, the reader assumes evenly spaced frames.
  return list(range(reader.frames)), 1 / _rate(reader)


def _size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
  scale = min(1.0, (short_side or height) / min(height, width))
  return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


def _resize(
  frame: UInt8[np.ndarray, 'h w 3'], height: int, width: int
) -> UInt8[np.ndarray, 'h2 w2 3']:
  if frame.shape[:2] == (height, width):
    return np.ascontiguousarray(frame)
  return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
