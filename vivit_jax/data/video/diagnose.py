# SPDX-License-Identifier: Apache-2.0
"""Why a video file cannot be read, in terms that suggest a remedy.

A reason is `kind` or `kind: detail`. There are few kinds, so that reports can count them.
"""

import io
import os
import stat

import av

HEAD = 4096  # bytes at the start of a file that are checked
MAX_BOXES = 1000  # outermost boxes of an MP4

SIGNATURES = (  # of other file types that were found with names of videos
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

ERRORS = (  # all exceptions that damaged files were observed to raise
  av.error.FFmpegError,
  IndexError,
  UnicodeDecodeError,
  ValueError,
  MemoryError,
  OSError,
)

KINDS = (  # kinds by exception type; the first match is used
  (FileNotFoundError, 'missing'),
  (PermissionError, 'no permission'),
  (MemoryError, 'too large'),
  (av.error.InvalidDataError, 'damaged'),
  (av.error.EOFError, 'truncated'),
  (OSError, 'cannot be read'),
)


class DecodeError(Exception):
  """A video cannot be read; has its `path` and the `reason` in one line."""

  def __init__(self, path: str, reason: str):
    super().__init__(path, reason)
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    return f'{self.path}: {self.reason}'


def special_file(path: str) -> str | None:
  """Returns why a path must not be opened (a pipe would block forever), or None if it can be.

  Raises:
    OSError: the path does not exist or is not accessible.
  """
  mode = os.stat(path).st_mode
  if stat.S_ISREG(mode):
    return None
  what = next((name for test, name in SPECIAL if test(mode)), 'something else')
  return f'not a file: {what}'


def reason(error: BaseException) -> str:
  """Returns the reason for an exception of the decoder or the operating system."""
  # strerror, because str() adds an FFmpeg error number and repeats the path.
  text = ' '.join(str(getattr(error, 'strerror', None) or error).split())
  kind = next((name for of, name in KINDS if isinstance(error, of)), 'damaged')
  return f'{kind}: {text or type(error).__name__}'


def unreadable(error: BaseException, path: str, content: bytes | None) -> str:
  """Returns why a file could not be opened as a video, based on its content."""
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
  """Returns the problem with the outermost boxes of an MP4, or None."""
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
  """Returns the beginning of a file as text, or None if it is not text."""
  try:
    text = head[: HEAD // 2].decode('utf-8', errors='strict' if len(head) < HEAD else 'ignore')
  except UnicodeDecodeError:
    return None
  return text if all(c.isprintable() or c.isspace() for c in text) else None


def too_many_pixels(width: int, height: int, bound: int) -> str | None:
  """Returns why frames of this size are rejected, or None if they have at most `bound` pixels."""
  if width * height <= bound:
    return None
  return f'too large: {width} x {height} pixels a frame; {bound:,} are the most that are decoded'
