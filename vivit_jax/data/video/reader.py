# SPDX-License-Identifier: Apache-2.0
"""Reads frames of one video file as RGB; decodes only what is needed and validates everything."""

import io
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import av
import numpy as np
from jaxtyping import Shaped, UInt8

from vivit_jax.data.timing import stage
from vivit_jax.data.video import diagnose, kept_times, timeline
from vivit_jax.data.video.diagnose import DecodeError
from vivit_jax.data.video.found import Found
from vivit_jax.data.video.frames import Crops, FrameRenderer

# A text file named .mp4 could otherwise be a playlist that opens other files or addresses.
OPEN_OPTIONS = {
  'format_whitelist': 'mov,matroska,avi,flv,mpegts,mpeg,mpegvideo',
  'protocol_whitelist': 'file',
}
PROBE = {'skip_loop_filter': 'all', 'skip_idct': 'all'}
LOCAL = 'file:'  # prefix of paths; otherwise FFmpeg takes the part before a colon as a protocol
MAX_PIXELS = 4096 * 2304  # per frame; otherwise a 200 kB file can require gigabytes
SEEK_GAP = 16  # decoding this many unwanted frames costs about as much as one seek

View = Callable[[av.VideoFrame], np.ndarray]  # converts a decoded frame to its result

# Decoders that can skip individual non-reference frames without changing a bit of the others. Not
# H.265: its frames of a higher temporal layer may refer to such frames.
SKIPPING = ('h264', 'mpeg4', 'mpeg2video')


class VideoReader:
  """Random access to the frames of one file, or of a span of seconds in it.

  Use it as a context manager. Frames are identified by their timestamps, so index i is the same
  frame whatever was read before, also with variable frame rates and B-frames. In files without
  reliable timestamps (AVI with B-frames, MPEG program streams, raw video streams, concatenated
  files), frames are counted in decoder output order from the first one, which is slower.

  Attributes:
    frames: number of frames between start and end, at least 1.
    seconds: time from the first to the last of them.
    times: time of each frame in seconds after the first; float64 [frames].
  """

  def __init__(
    self,
    path: str,
    start: float | None = None,
    end: float | None = None,
    content: bytes | None = None,
  ):
    """Opens the file and finds its frames.

    Args:
      path: a local file.
      start: start of the span, in seconds after the first frame, inclusive; None = first frame.
      end: end of the span, in seconds after the first frame, exclusive; None = end of the file.
      content: content of a file that is not on a local disk; `path` is then only its name.

    Raises:
      DecodeError: the file is not a video or is damaged, or the span has no frame.
    """
    self._path = path
    self._content = content
    self._container: Any = None
    self._counted = False  # whether frames are identified by decoder output order
    self._renderer = FrameRenderer()
    try:
      if content is None and (special := diagnose.special_file(path)):
        raise DecodeError(path, special)
      tables = timeline.read_tables(path, content)
      kept = kept_times.of(path) if content is None else None
      self._open()
      found = timeline.find(self._container, self._stream, path, tables, kept, self._count)
      self._times, self._keys, self._counted = found.times, found.keys, found.counted
      self._claimed = found.claimed
      rate = self._stream.guessed_rate or self._stream.average_rate or 25
      unit = 1 / float(rate) if self._counted else float(self._stream.time_base or 0)
    except diagnose.ERRORS as error:
      opened = self._container is not None
      self.close()
      why = diagnose.reason(error) if opened else diagnose.unreadable(error, path, content)
      raise DecodeError(path, why) from error
    except DecodeError:
      self.close()
      raise
    seconds = (self._times - self._times[0]) * unit
    low = 0 if start is None else int(np.searchsorted(seconds, start))
    high = len(seconds) if end is None else int(np.searchsorted(seconds, end))
    if low >= high:
      self.close()
      span = f'no frame from {start or 0.0} s to {end} s'
      raise DecodeError(path, f'empty span: {span}: it lasts {seconds[-1]:.3f} s')
    self._offset = low
    self.frames = high - low
    self.seconds = float(seconds[high - 1] - seconds[low])
    self.times = seconds[low:high] - seconds[low]

  def __enter__(self) -> 'VideoReader':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file."""
    if self._container is not None:
      self._container.close()

  def read(
    self,
    indices: Shaped[np.ndarray, ' n'],
    transform: Crops | Callable[[UInt8[np.ndarray, 'h w 3']], np.ndarray] = lambda frame: frame,
  ) -> Shaped[np.ndarray, 'n ...']:
    """Returns frames in the order of the indices.

    Args:
      indices: from 0 to `frames` - 1, in any order, duplicates allowed.
      transform: applied once to each distinct frame, RGB uint8 [H, W, 3], right after decoding, so
        that large frames are not held together. Its input is the displayed frame (see frames.py):
        upright, with square pixels, not always contiguous. For Crops, only their boxes are
        converted if that is faster.

    Returns:
      The results of `transform`, uint8 [n, H, W, 3] by default.

    Raises:
      DecodeError: a frame is missing or damaged, or the frames differ in size.
    """
    if indices.size == 0 or indices.min() < 0 or indices.max() >= self.frames:
      raise IndexError(f'indices {indices} are not in [0, {self.frames})')
    view = self._renderer.viewer(self._stream.sample_aspect_ratio, transform)
    wanted = sorted({self._offset + int(i) for i in indices})
    found = Found([self._offset + int(i) for i in indices])
    try:
      with stage('decode'):
        for run in self._runs(wanted):
          self._decode(run, view, found)
        self._complete(wanted, found)
      return found.all()
    except diagnose.ERRORS as error:
      raise DecodeError(self._path, diagnose.reason(error)) from error

  def verify(self) -> None:
    """Decodes all frames without converting them; finds damage that `read` may not encounter.

    Raises:
      DecodeError: a frame is missing or damaged.
    """
    wanted = self._times[self._offset : self._offset + self.frames].tolist()
    try:
      whole = {t for t, frame in self._frames(self._start()) if not frame.is_corrupt}
    except diagnose.ERRORS as error:
      raise DecodeError(self._path, diagnose.reason(error)) from error
    self._refuse([i for i, time in enumerate(wanted) if time not in whole])

  def _open(self) -> None:
    source = LOCAL + self._path if self._content is None else io.BytesIO(self._content)
    # FFmpeg probes some frames with its own limits; their pixels are not used.
    limits = {'max_pixels': str(MAX_PIXELS), 'threads': '1', **PROBE}
    container = av.open(source, options=limits, container_options=OPEN_OPTIONS)
    self._container = container
    if not container.streams.video:
      raise DecodeError(self._path, 'not a video: it has no video stream')
    self._stream = container.streams.video[0]
    context = self._stream.codec_context
    if context is None:
      raise DecodeError(self._path, 'unknown codec')
    # The options of open() do not apply to decoding. Videos are decoded in parallel, so threads
    # within one would only add latency and memory.
    context.options = {'max_pixels': str(MAX_PIXELS)}
    context.thread_count = 1
    if too_large := diagnose.too_many_pixels(context.width, context.height, MAX_PIXELS):
      raise DecodeError(self._path, too_large)

  def _count(self) -> int:
    """Returns the number of frames that the decoder outputs; packets may hold two, or none."""
    self._counted = True
    if count := sum(1 for _ in self._frames(0)):
      return count
    raise DecodeError(self._path, 'no frames')

  def _frames(
    self, target: int, wanted: Collection[int] | None = None
  ) -> Iterator[tuple[int | None, Any]]:
    """Yields (time, frame) from the seek target on; counted frames always from the first one.

    Args:
      target: seek target.
      wanted: times of the wanted frames; others may be skipped if that changes no wanted one.
    """
    if self._counted:
      self.close()  # seeking needs timestamps too
      self._open()
      yield from enumerate(self._container.decode(self._stream))
    else:
      context = self._stream.codec_context
      needed = wanted if context.name in SKIPPING else None
      left = set(needed or ())
      progressive = False
      for packet in self._packets(target):
        # In a field pair, the second field may be droppable although the first is not.
        skip = progressive and needed is not None and packet.pts not in needed
        context.skip_frame = 'NONREF' if skip else 'DEFAULT'
        frames = packet.decode()
        left.discard(packet.pts)
        if needed and not left and progressive and packet.size:
          # The decoder has received all wanted frames; flush it.
          yield from ((frame.pts, frame) for frame in (*frames, *context.decode(None)))
          return
        for frame in frames:
          progressive = not frame.interlaced_frame
          yield frame.pts, frame

  def _packets(self, target: int) -> Iterator[Any]:
    """Returns the packets from the seek target on."""
    with stage('seek'):
      self._container.seek(target, stream=self._stream)
    packets = self._container.demux(self._stream)
    first = next(packets)  # at the end of the file, an empty one
    if self._claimed and first.size and not first.is_keyframe:
      # The index is wrong: decoding would start at a frame that refers to earlier frames.
      self.close()
      self._open()
      found = timeline.find(self._container, self._stream, self._path, None, None, self._count)
      self._keys, self._claimed = found.keys, False
      before = found.keys[found.keys[:, 1] <= target, 1]
      return self._packets(int(before[-1]) if len(before) else self._start())
    return itertools.chain([first], packets)

  def _start(self) -> int:
    """Returns the seek target of the first frame."""
    return min(int(self._times[0]), 0)

  def _target(self, index: int) -> int | None:
    """Returns the seek target of the last key frame before frame `index`, or None."""
    key = int(np.searchsorted(self._keys[:, 0], self._times[index], 'right')) - 1
    return int(self._keys[key, 1]) if key >= 0 else None

  def _runs(self, wanted: list[int]) -> list[list[int]]:
    """Splits ascending indices into runs where seeking is faster than decoding in between."""
    times = self._keys[:, 0] if len(self._keys) else self._times[:1]
    before = np.searchsorted(times, self._times[wanted], 'right') - 1
    keys = np.searchsorted(self._times, times[np.maximum(before, 0)])  # as indices
    runs = [wanted[:1]]
    for index, key in zip(wanted[1:], keys[1:].tolist(), strict=True):
      if key - runs[-1][-1] > SEEK_GAP:
        runs.append([])
      runs[-1].append(index)
    return runs

  def _decode(self, run: list[int], view: View, found: dict[int, np.ndarray]) -> None:
    """Decodes from the key frame before the run; from earlier ones if the seek landed late."""
    target = self._target(run[0])
    pending = dict(zip(self._times[run].tolist(), run, strict=True))
    attempts = [] if target is None else [(target, set(pending))]
    for start, wanted in [*attempts, (self._start(), None)]:
      for time, frame in self._frames(start, wanted):
        # A frame damaged by a seek into the middle of a group is tried again.
        if time in pending and not frame.is_corrupt:
          found[pending.pop(time)] = view(frame)
        if not pending or (time is not None and time > max(pending)):
          break
      if not pending:
        return
    self._refuse(list(pending.values()))

  def _refuse(self, missing: list[int]) -> None:
    if missing:
      what = f'damaged: {len(missing)} frames missing or broken, the first is {min(missing)}'
      raise DecodeError(self._path, what)

  def _complete(self, wanted: list[int], found: dict[int, np.ndarray]) -> None:
    """Hook for readers that replace missing frames; does nothing here."""
