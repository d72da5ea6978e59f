# SPDX-License-Identifier: Apache-2.0
"""The annotation formats, and their detection in a folder."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from vivit_jax.data.index import (
  epic_kitchens,
  kinetics,
  moments_in_time,
  own,
  something_something,
  ucf101,
)
from vivit_jax.data.index.annotations import Index
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Format:
  """Annotation format of a public data set."""

  needs: str  # files that identify it
  find: Callable[[Path], bool]
  read: Callable[[Path, VideoFiles], Index]


FORMATS = {
  'kinetics': Format(kinetics.NEEDS, kinetics.find, kinetics.read),
  'something_something': Format(
    something_something.NEEDS, something_something.find, something_something.read
  ),
  'epic_kitchens': Format(epic_kitchens.NEEDS, epic_kitchens.find, epic_kitchens.read),
  'moments_in_time': Format(moments_in_time.NEEDS, moments_in_time.find, moments_in_time.read),
  'ucf101': Format(ucf101.NEEDS, ucf101.find, ucf101.read),
  'ucf101:2': Format(ucf101.NEEDS, ucf101.find, functools.partial(ucf101.read, division=2)),
  'ucf101:3': Format(ucf101.NEEDS, ucf101.find, functools.partial(ucf101.read, division=3)),
}
OWN = 'folder'  # the user's own videos: class folders, or one CSV
UNLABELED = 'unlabeled'  # all videos of a folder


def read_index(
  source: Path, name: str | None = None, annotations: Path | None = None
) -> tuple[str, Index, Path]:
  """Reads a data set.

  Args:
    source: the folder of the videos, or a CSV that lists them.
    name: of the format, OWN, UNLABELED or one of FORMATS; found out if None.
    annotations: folder of the annotation files, or the one above it; `source` if None.

  Returns:
    The format, the data set, and the folder to which its paths are relative.

  Raises:
    DataError: something is missing or invalid; names file and line.
  """
  for place in (source, annotations or source):
    if not place.exists():
      raise DataError(f'{place} does not exist: give the folder of the videos, or a CSV file')
  if source.is_file():
    if source.suffix.lower() != '.csv' or name not in (None, OWN) or annotations:
      raise DataError(
        f'{source} is a file: give the folder of the videos, or a CSV that lists them'
      )
    return OWN, own.read_list(source), source.parent
  if name == UNLABELED:
    return name, own.read_unlabeled(VideoFiles(source)), source
  place = annotations or source
  name = name or _detect(place, required=annotations is not None)
  if name == OWN:
    return name, own.read_folder(VideoFiles(source)), source
  if not FORMATS[name].find(place):
    raise DataError(
      f'{place} has no annotations of --format={name}: it needs {FORMATS[name].needs}, there or in '
      'a direct subfolder'
    )
  videos = VideoFiles(source)
  index = FORMATS[name].read(place, videos)
  return name, dataclasses.replace(index, notes=(*index.notes, *videos.notes)), source


def _detect(place: Path, required: bool) -> str:
  found = [name for name, form in FORMATS.items() if ':' not in name and form.find(place)]
  if len(found) > 1:
    raise DataError(f'{place} has annotations of {" and ".join(found)}: choose with --format')
  if required and not found:
    known = '; '.join(f'{name}: {form.needs}' for name, form in FORMATS.items() if ':' not in name)
    raise DataError(f'{place} has no annotations in a known format ({known})')
  return found[0] if found else OWN
