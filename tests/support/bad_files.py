# SPDX-License-Identifier: Apache-2.0
"""Every kind of file that is no readable video although its name says so: a table of real ones."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from support.videos import write_video

FRAMES = 24


def _bytes(
  change: Callable[[bytearray], bytes], suffix: str = '.mp4', **options
) -> Callable[[Path], None]:
  """Returns what writes a changed copy of a true video, an MP4 or what else `suffix` says."""

  def write(path: Path) -> None:
    source = write_video(path.with_suffix(suffix), FRAMES, **options)
    content = change(bytearray(source.read_bytes()))
    source.unlink()
    path.write_bytes(content)

  return write


def _patch(box: bytes, offset: int, layout: str, *values: int, **options) -> Callable[[Path], None]:
  """Returns what overwrites numbers in the first box of a type, `offset` after its type."""

  def change(content: bytearray) -> bytes:
    at = content.find(box)
    assert at > 0, f'no {box!r}'
    struct.pack_into(layout, content, at + offset, *values)
    return bytes(content)

  return _bytes(change, **options)


def _zeroed_frames(content: bytearray) -> bytes:
  at = content.find(b'mdat')
  size = int.from_bytes(content[at - 4 : at], 'big')
  content[at + 4 : at - 4 + size] = bytes(size - 8)
  return bytes(content)


def _flipped(content: bytearray) -> bytes:
  at = content.find(b'mdat')
  end = at - 4 + int.from_bytes(content[at - 4 : at], 'big')
  for i in range(at + 700, end, 7):  # before them is a text about the encoder
    content[i] ^= 1 << i % 8
  return bytes(content)


def _billion(content: bytearray) -> bytes:
  """An index of 10^9 frames of a byte each, in one chunk: consistent, and 12 bytes long."""
  for box, at, values in (
    (b'stsz', 8, (1, 10**9)),
    (b'stsc', 8, (1, 1, 10**9, 1)),
    (b'stts', 8, (1, 10**9, 512)),
  ):
    struct.pack_into(f'>{len(values)}I', content, content.find(box) + at, *values)
  return bytes(content)


def _audio_only(path: Path) -> None:
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=8000, layout='mono')
    sound = np.zeros((1, 8000), np.float32)
    frame = av.AudioFrame.from_ndarray(sound, format='fltp', layout='mono')
    frame.rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _no_frames(content: bytearray) -> bytes:
  """An index without an entry."""
  for box, at in ((b'stsz', 12), (b'stsc', 8), (b'stts', 8), (b'stco', 8), (b'ctts', 8)):
    struct.pack_into('>I', content, content.find(box) + at, 0)
  return bytes(content)


def _picture(path: Path) -> None:
  path.write_bytes(cv2.imencode('.png', np.zeros((48, 64, 3), np.uint8))[1].tobytes())


def _archive(path: Path) -> None:
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.mp4', 'not even compressed')


def _huge(path: Path) -> None:
  with av.open(str(path), 'w', format='mpegts') as container:
    stream = container.add_stream('libx264', rate=10, options={'preset': 'ultrafast'})
    stream.width, stream.height, stream.pix_fmt = 4096, 2320, 'yuv420p'
    frame = av.VideoFrame(4096, 2320, 'yuv420p')
    for plane in frame.planes:
      plane.update(bytes(plane.buffer_size))
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _playlist(path: Path) -> None:
  target = write_video(path.with_name('secret.mp4'), FRAMES)
  path.write_text(f"ffconcat version 1.0\nfile '{target.name}'\n")


# Kind: what makes it under a path ending in .mp4, and how the reason begins.
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
  'cut off': (_bytes(lambda b: bytes(b[:1000])), 'truncated: 1,000 of at least'),
  'cut off behind the index': (
    _bytes(lambda b: bytes(b[: len(b) * 3 // 4]), movflags='faststart'),
    'truncated: ',
  ),
  'index never written': (
    _bytes(lambda b: bytes(b[: b.find(b'moov') - 4])),
    'truncated: the index at the end',
  ),
  'zeros': (_bytes(lambda b: bytes(len(b))), 'not a video: it begins with'),
  'zeroed frames': (_bytes(_zeroed_frames), 'damaged: '),
  'flipped bits': (_bytes(_flipped), 'damaged: '),
  'audio only': (_audio_only, 'not a video: it has no video stream'),
  'no frames': (_bytes(_no_frames), 'no frames'),
  'empty': (lambda path: path.touch(), 'empty'),
  'PNG': (_picture, 'not a video: a PNG picture'),
  'ZIP': (_archive, 'not a video: a ZIP archive'),
  'text': (lambda path: path.write_text('words\n'), "not a video: text that begins 'words'"),
  'web page': (lambda path: path.write_text('<!DOCTYPE html>\n'), 'not a video: a web page'),
  'playlist': (_playlist, 'not a video: a playlist'),
  'huge frames': (_huge, 'too large: 4096 x 2320 pixels'),
  'a billion frames': (_bytes(_billion), 'truncated: 0 of 1000000000 frames'),
  'a billion times': (_patch(b'stts', 8, '>III', 1, 10**9, 1), 'truncated: 24 of 1000000000'),
  'gone': (lambda path: None, 'missing: No such file'),
  'folder': (lambda path: path.mkdir(), 'not a file: a folder'),
  'dangling link': (lambda path: path.symlink_to('nowhere'), 'missing: No such file'),
  'circular link': (lambda path: path.symlink_to(path.name), 'cannot be read: Too many levels'),
  'named pipe': (os.mkfifo, 'not a file: a named pipe'),
  'endless device': (lambda path: path.symlink_to('/dev/zero'), 'not a file: a device'),
}

# What looks wrong and is a whole video all the same.
GOOD: dict[str, Callable[[Path], object]] = {
  'size of 65535 x 65535 in tkhd': _patch(b'tkhd', 80, '>II', 65535 << 16, 65535 << 16),
  'size of 65535 x 65535 in stsd': _patch(b'avc1', 28, '>HH', 65535, 65535),
  'size of 100000 x 100000 in AVI': _patch(
    b'strf', 12, '<ii', 100_000, 100_000, codec='mpeg4', suffix='.avi'
  ),
  'a billion frames in AVI': _patch(b'avih', 24, '<I', 10**9, codec='mpeg4', suffix='.avi'),
}
