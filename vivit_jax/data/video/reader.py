# SPDX-License-Identifier: Apache-2.0
"""Frames of one video file as RGB, decoding only what is asked for and trusting nothing in it."""

import io
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator
from typing import Any

import av
import numpy as np
from jaxtyping import Shaped, UInt8

from vivit_jax.data.timing import stage
from vivit_jax.data.video import diagnose
from vivit_jax.data.video.frames import Crops, FrameRenderer

# A text file named .mp4 could otherwise be a playlist that opens other files or addresses.
OPEN_OPTIONS = {
  'format_whitelist': 'mov,matroska,avi,flv,mpegts,mpeg,mpegvideo',
  'protocol_whitelist': 'file',
}
LOCAL = 'file:'  # before a path: FFmpeg takes what stands before a colon for a protocol
MAX_PIXELS = 4096 * 2304  # per frame; a file of 200 kB can otherwise claim gigabytes
SEEK_GAP = 16  # decoding this many unwanted frames costs about as much as one seek

View = Callable[[av.VideoFrame], np.ndarray]  # what is kept of a decoded frame

# Decoders that can leave out frames to which no other refers, one by one, so that the wanted ones
# stay the same to the bit. Not H.265: its frames of a higher layer may refer to such frames.
SKIPPING = ('h264', 'mpeg4', 'mpeg2video')


class DecodeError(Exception):
  """A video that cannot be read: `path`, and the `reason` in one line."""

  def __init__(self, path: str, reason: str):
    super().__init__(path, reason)
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    return f'{self.path}: {self.reason}'


class VideoReader:
  """Random access to the frames of one file, or of a span of seconds in it.

  Use it as a context manager. Frames are counted by their true timestamps, so that index i is the
  same frame whatever was read before, with variable frame rates and B-frames too. Files without
  timestamps to trust (AVI with B-frames, MPEG program and bare video streams, joined files) are
  counted in the order in which the decoder gives frames out, from the first: slower.

  Attributes:
    frames: between start and end, at least 1.
    seconds: from the first to the last of them.
    times: of each of them, in seconds after the first; float64 [frames].
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
      start: seconds after the first frame from which frames count; None = from the first.
      end: seconds after the first frame before which frames count; None = to the last.
      content: of the file, where that is not on a local disk; `path` then only names it.

    Raises:
      DecodeError: not a video, damaged, or no frame between start and end.
    """
    self._path = path
    self._content = content
    self._container: Any = None
    self._counted = False  # frames by their place in the decoder's output, not by timestamps
    self._renderer = FrameRenderer()
    try:
      self._open()
      self._times, self._keys = self._demux()
      if not self._times:
        self._times = list(range(self._count()))
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
    seconds = [(t - self._times[0]) * unit for t in self._times]
    low = 0 if start is None else bisect_left(seconds, start)
    high = len(seconds) if end is None else bisect_left(seconds, end)
    if low >= high:
      self.close()
      span = f'no frame from {start or 0.0} s to {end} s'
      raise DecodeError(path, f'empty span: {span}: it lasts {seconds[-1]:.3f} s')
    self._offset = low
    self.frames = high - low
    self.seconds = seconds[high - 1] - seconds[low]
    self.times = np.array(seconds[low:high]) - seconds[low]

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
    """Returns frames in the order asked for.

    Args:
      indices: from 0 to `frames` - 1, in any order, duplicates allowed.
      transform: applied once to each distinct frame, RGB uint8 [H, W, 3], as soon as it is
        decoded, so that large frames are never held together. It sees frames as a player shows
        them (see frames.py): turned upright, with square pixels; not always contiguous. Crops
        get their boxes instead where these can be had for less than the whole frame.

    Returns:
      transform's results, uint8 [n, H, W, 3] by default.

    Raises:
      DecodeError: a frame is missing or damaged, or the frames differ in size.
    """
    if indices.size == 0 or indices.min() < 0 or indices.max() >= self.frames:
      raise IndexError(f'indices {indices} are not in [0, {self.frames})')
    view = self._renderer.viewer(self._stream.sample_aspect_ratio, transform)
    wanted = sorted({self._offset + int(i) for i in indices})
    found: dict[int, np.ndarray] = {}
    try:
      with stage('decode'):
        for run in self._runs(wanted):
          self._decode(run, view, found)
        self._complete(wanted, found)
      return np.stack([found[self._offset + int(i)] for i in indices])
    except diagnose.ERRORS as error:
      raise DecodeError(self._path, diagnose.reason(error)) from error

  def verify(self) -> None:
    """Decodes all frames from the first, which finds more than `read` sees, and converts none.

    Raises:
      DecodeError: a frame is missing or damaged.
    """
    wanted = self._times[self._offset : self._offset + self.frames]
    try:
      whole = {t for t, frame in self._frames(min(self._times[0], 0)) if not frame.is_corrupt}
    except diagnose.ERRORS as error:
      raise DecodeError(self._path, diagnose.reason(error)) from error
    self._refuse([i for i, time in enumerate(wanted) if time not in whole])

  def _open(self) -> None:
    source = LOCAL + self._path if self._content is None else io.BytesIO(self._content)
    if self._content is None and (special := diagnose.special_file(self._path)):
      raise DecodeError(self._path, special)
    limits = {'max_pixels': str(MAX_PIXELS), 'threads': '1'}
    # FFmpeg decodes some frames to find out what they are, under limits of its own.
    container = av.open(source, options=limits, container_options=OPEN_OPTIONS)
    self._container = container
    if not container.streams.video:
      raise DecodeError(self._path, 'not a video: it has no video stream')
    self._stream = container.streams.video[0]
    context = self._stream.codec_context
    if context is None:
      raise DecodeError(self._path, 'unknown codec')
    # What open() was given is forgotten by now. Videos are decoded side by side, so
    # threads within one only add latency and memory.
    context.options = {'max_pixels': str(MAX_PIXELS)}
    context.thread_count = 1
    if too_large := diagnose.too_many_pixels(context.width, context.height, MAX_PIXELS):
      raise DecodeError(self._path, too_large)

  def _demux(self) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the times of all shown frames, and (time, seek target) of key frames, ascending.

    No times where packets carry none that could be trusted; then frames have to be counted.
    """
    packets = [
      (p.pts, p.dts, p.is_keyframe, p.is_discard)
      for p in self._container.demux(self._stream)
      if p.size
    ]
    name = self._container.format.name
    # The counts of other containers are estimates; that of mp4 is its table of samples.
    if 'mp4' in name and len(packets) < (total := self._stream.frames):
      raise DecodeError(self._path, f'truncated: {len(packets)} of {total} frames are there')
    times = [pts for pts, _, _, hidden in packets if not hidden]
    if not times:
      raise DecodeError(self._path, 'no frames')
    # Two recordings in one file, the clock set back: their times say nothing about the order.
    stored = [dts for _, dts, _, _ in packets if dts is not None]
    restarted = any(later < earlier for earlier, later in itertools.pairwise(stored))
    # AVI numbers packets, not frames; with B-frames that is another order, and nothing says so.
    # MPEG program streams stamp only some frames: after a seek the others get wrong times.
    renumbered = name == 'avi' and self._stream.codec_context.has_b_frames
    if None in times or name in ('mpeg', 'mpegvideo') or renumbered or restarted:
      self._counted = True
      return [], []
    # Key frames that an edit list hides are still where decoding must start.
    keys = sorted(
      (pts, pts if dts is None else dts)
      for pts, dts, is_key, _ in packets
      if is_key and pts is not None
    )
    return sorted(set(times)), keys

  def _count(self) -> int:
    """Returns how many frames the decoder gives out: packets may hold two, or none."""
    if count := sum(1 for _ in self._frames(0)):
      return count
    raise DecodeError(self._path, 'no frames')

  def _frames(
    self, target: int, wanted: Collection[int] | None = None
  ) -> Iterator[tuple[int | None, Any]]:
    """Yields (time, frame) from the seek target on; counted frames always from the first one.

    Args:
      target: to seek to.
      wanted: times of frames; others may be left out where that changes no wanted one.
    """
    if self._counted:
      self.close()  # seeking needs timestamps too
      self._open()
      yield from enumerate(self._container.decode(self._stream))
    else:
      with stage('seek'):
        self._container.seek(target, stream=self._stream)
      needed = wanted if self._stream.codec_context.name in SKIPPING else None
      progressive = False
      for packet in self._container.demux(self._stream):
        # Of a field pair, the second may be dispensable where the first is not.
        skip = progressive and needed is not None and packet.pts not in needed
        self._stream.codec_context.skip_frame = 'NONREF' if skip else 'DEFAULT'
        for frame in packet.decode():
          progressive = not frame.interlaced_frame
          yield frame.pts, frame

  def _key(self, index: int) -> int:
    """Returns which key frame precedes frame `index`; -1 if none does."""
    return bisect_right(self._keys, (self._times[index], 2**63)) - 1

  def _runs(self, wanted: list[int]) -> list[list[int]]:
    """Splits ascending indices where seeking costs less than decoding on."""
    runs = [wanted[:1]]
    for index in wanted[1:]:
      key = self._keys[max(0, self._key(index))][0] if self._keys else self._times[0]
      if bisect_left(self._times, key) - runs[-1][-1] > SEEK_GAP:
        runs.append([])
      runs[-1].append(index)
    return runs

  def _decode(self, run: list[int], view: View, found: dict[int, np.ndarray]) -> None:
    """Decodes from the key frame before the run; from earlier ones if the seek landed late."""
    key = self._key(run[0])
    targets = [self._keys[key][1]] if key >= 0 else []
    pending = {self._times[i]: i for i in run}
    for target, wanted in [*((t, set(pending)) for t in targets), (min(self._times[0], 0), None)]:
      for time, frame in self._frames(target, wanted):
        # A frame damaged by a seek into the middle of a group gets its second chance.
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
    """Is where another reader fills in what it did not find; here all is found by now."""
