# SPDX-License-Identifier: Apache-2.0
"""Why a file is not a video that can be read, in words that say what to do about it.

A reason is `kind` or `kind: detail`; the kinds are few, so that reports can count them.
"""

import io
import os
import stat

import av

HEAD = 4096  # bytes that are looked at
MAX_BOXES = 1000  # of an MP4, outermost

SIGNATURES = (  # of what was found under the names of videos
  (b'\x89PNG', 'a PNG picture'),
  (b'\xff\xd8\xff', 'a JPEG picture'),
  (b'GIF8', 'a GIF picture'),
  (b'PK\x03\x04', 'a ZIP archive'),
  (b'\x1f\x8b', 'a gzip archive'),
  (b'7z\xbc\xaf', 'a 7z archive'),
  (b'Rar!', 'a RAR archive'),
  (b'%PDF', 'a PDF document'),
  (b'ID3', 'MP3 audio'),
  (b'OggS', 'Ogg, which is not read'),
  (b'0&\xb2u', 'Windows Media, which is not read'),
)

SPECIAL = (
  (stat.S_ISDIR, 'a folder'),
  (stat.S_ISFIFO, 'a named pipe'),
  (stat.S_ISCHR, 'a device'),
  (stat.S_ISBLK, 'a device'),
  (stat.S_ISSOCK, 'a socket'),
)

ERRORS = (  # all that damaged files were seen to raise
  av.error.FFmpegError,
  IndexError,
  UnicodeDecodeError,
  ValueError,
  MemoryError,
  OSError,
)

KINDS = (  # of what the decoder or the system says; the first that fits
  (FileNotFoundError, 'missing'),
  (PermissionError, 'no permission'),
  (MemoryError, 'too large'),
  (av.error.InvalidDataError, 'damaged'),
  (av.error.EOFError, 'truncated'),
  (OSError, 'cannot be read'),
)


class DecodeError(Exception):
  """A video that cannot be read: `path`, and the `reason` in one line."""

  def __init__(self, path: str, reason: str):
    super().__init__(path, reason)
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    return f'{self.path}: {self.reason}'


def special_file(path: str) -> str | None:
  """Returns why a path is not to be opened at all: a pipe would block for ever; None if it may be.

  Raises:
    OSError: there is nothing, or nothing that may be looked at.
  """
  mode = os.stat(path).st_mode
  if stat.S_ISREG(mode):
    return None
  what = next((name for test, name in SPECIAL if test(mode)), 'something else')
  return f'not a file: {what}'


def reason(error: BaseException) -> str:
  """Returns what an error of the decoder or of the system means."""
  # What str() adds, an FFmpeg number and the path once more, helps nobody.
  text = ' '.join(str(getattr(error, 'strerror', None) or error).split())
  kind = next((name for of, name in KINDS if isinstance(error, of)), 'damaged')
  return f'{kind}: {text or type(error).__name__}'


def unreadable(error: BaseException, path: str, content: bytes | None) -> str:
  """Returns why a file could not even be opened as a video, from what it holds instead."""
  try:
    with open(path, 'rb') if content is None else io.BytesIO(content) as file:
      return _what_is(file) or reason(error)
  except (OSError, ValueError):
    return reason(error)


def _what_is(file: io.BufferedIOBase) -> str | None:
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  head = file.read(HEAD)
  if not size:
    return 'empty: 0 bytes'
  if not any(head):
    return f'not a video: it begins with {len(head)} zeros'
  for signature, name in SIGNATURES:
    if head.startswith(signature):
      return f'not a video: {name}'
  if head[:4] == b'RIFF' and head[8:12] == b'WAVE':
    return 'not a video: WAVE audio'
  if head[4:8] in (b'ftyp', b'moov', b'mdat'):
    return _broken_mp4(file, size)
  text = _text(head)
  if text is None:
    return None
  if text.startswith(('ffconcat', '#EXTM3U', '[playlist]')):
    return 'not a video: a playlist, and files that name other files are never followed'
  if text[:100].lower().lstrip().startswith(('<!doctype html', '<html')):
    return 'not a video: a web page'
  return f'not a video: text that begins {" ".join(text.split())[:40]!r}'


def _broken_mp4(file: io.BufferedIOBase, size: int) -> str | None:
  """Returns what is wrong with the outermost boxes of an MP4; None if nothing."""
  at, seen = 0, list[bytes]()
  while at < size and len(seen) < MAX_BOXES:
    file.seek(at)
    header = file.read(16)
    length = int.from_bytes(header[:4], 'big')
    if length == 1:  # the true one follows
      length = int.from_bytes(header[8:], 'big')
    seen.append(header[4:8])
    if length == 0:  # to the end
      break
    at += max(length, 8)
  if at > size:
    return f'truncated: {size:,} of at least {at:,} bytes are there'
  if b'moov' not in seen:
    return 'truncated: the index at the end (moov) is missing'
  return None


def _text(head: bytes) -> str | None:
  """Returns the beginning of a file as text, None where it is not."""
  try:
    text = head[: HEAD // 2].decode('utf-8', errors='strict' if len(head) < HEAD else 'ignore')
  except UnicodeDecodeError:
    return None
  return text if all(c.isprintable() or c.isspace() for c in text) else None


def too_many_pixels(width: int, height: int, bound: int) -> str | None:
  """Returns why frames of a size are refused, None if they are within the bound of pixels."""
  if width * height <= bound:
    return None
  return f'too large: {width} x {height} pixels a frame; {bound:,} are the most that are decoded'
