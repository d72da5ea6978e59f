# SPDX-License-Identifier: Apache-2.0
"""Which videos a command line means: files, folders of them, and CSV files that list them."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from vivit_jax.config_parse import nearest
from vivit_jax.data.manifest import Video, parse_seconds
from vivit_jax.errors import DataError

SUFFIXES = (
  *('.mp4', '.m4v', '.mov', '.3gp', '.mkv', '.webm', '.avi', '.flv'),
  *('.ts', '.mts', '.m2ts', '.mpg', '.mpeg', '.vob', '.m1v', '.m2v'),
)
# Videos and moving pictures that are not read: they can be converted.
UNREAD = (
  *('.gif', '.apng', '.wmv', '.asf', '.ogv', '.ogg', '.ogm', '.f4v', '.rm', '.rmvb', '.divx'),
  *('.mxf', '.dv', '.mjpeg', '.y4m', '.264', '.h264', '.265', '.h265', '.hevc', '.ivf'),
)


def collect_videos(arguments: Sequence[str | Path]) -> list[Video]:
  """Returns the videos that the arguments name, in their order, with no labels.

  Args:
    arguments: each a video file of any name; a folder, searched at any depth for files with one of
      SUFFIXES, in the order of their paths, hidden ones left out; or a CSV file with a `path`
      column, relative to its folder or absolute, and optional `start` and `end` in seconds.

  Raises:
    DataError: something that does not exist, a folder without videos, or a CSV that cannot be used.
  """
  videos: list[Video] = []
  for argument in map(Path, arguments):
    if argument.is_dir():
      videos += _folder(argument)
    elif not argument.exists():
      raise DataError(f'{argument} does not exist: give video files, folders or a CSV of paths')
    elif argument.suffix.lower() == '.csv':
      videos += _listed(argument)
    else:
      videos.append(Video(str(argument), None, None, ()))
  return videos


def _folder(folder: Path) -> list[Video]:
  found = sorted(
    file
    for file in folder.rglob('*')
    if file.suffix.lower() in SUFFIXES
    and not any(part.startswith('.') for part in file.relative_to(folder).parts)
    and file.is_file()
  )
  if not found:
    raise DataError(f'{folder} has no videos: none of its files ends in {" ".join(SUFFIXES)}')
  return [Video(str(file), None, None, ()) for file in found]


def _listed(file: Path) -> list[Video]:
  # Rows that do not exist are found before hours of work on those that do.
  videos = list(_rows(file))
  if not videos:
    raise DataError(f'{file} lists no videos: give one row per video below the header')
  missing = [(line, video.path) for line, video in videos if not Path(video.path).exists()]
  if missing:
    more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
    raise DataError(f'{file}:{missing[0][0]} {missing[0][1]} does not exist{more}')
  return [video for _, video in videos]


def _rows(file: Path) -> Iterator[tuple[int, Video]]:
  try:
    text = file.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise DataError(f'{file} is not UTF-8 text: byte {error.start}; save it as UTF-8') from None
  except OSError as error:
    raise DataError(f'{file} cannot be read: {error.strerror}') from None
  reader = csv.DictReader(text.splitlines(), strict=True)
  try:
    columns = list(reader.fieldnames or [])
    if 'path' not in columns:
      raise DataError(f"{file}:1 has no column 'path'{nearest('path', columns or ['path'])}")
    for row in reader:
      where = f'{file}:{reader.line_num}'
      if not row['path'] or '\0' in row['path']:
        raise DataError(f'{where} has no usable path ({row["path"]!r})')
      start, end = (parse_seconds(where, name, row.get(name)) for name in ('start', 'end'))
      if end is not None and end <= (start or 0.0):
        raise DataError(f'{where} end={end} is not after start={start or 0.0}')
      yield reader.line_num, Video(str(file.parent / row['path']), start, end, ())
  except csv.Error as error:
    raise DataError(f'{file}:{reader.line_num} is not valid CSV: {error}') from None
