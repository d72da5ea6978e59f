# SPDX-License-Identifier: Apache-2.0
"""Kinetics-400, -600 and -700: CSV files of label, youtube_id, time_start, time_end and split.

Video files are named `<youtube_id>_<time_start>_<time_end>`, with times of six digits, or
`<youtube_id>`, with any suffix and in any folder, because copies differ in their split and class
folders. Without times in its name, a file may be the segment or the whole video, depending on its
length. Class ids are in alphabetical order.
"""

import dataclasses
from multiprocessing.pool import ThreadPool
from pathlib import Path

import av
from tqdm import tqdm

from vivit_jax.data.index.annotations import Annotation, Index, split_name, subfolders
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.data.manifest import parse_span
from vivit_jax.data.tables import Cells, read_table
from vivit_jax.data.video.diagnose import ERRORS
from vivit_jax.data.video.reader import LOCAL, OPEN_OPTIONS
from vivit_jax.errors import DataError

NEEDS = 'CSV files with the columns label,youtube_id,time_start,time_end,split'
_COLUMNS = ('youtube_id', 'time_start', 'time_end', 'split')
_WHOLE = 1.5  # a file longer than this many times its segment is the whole video


def find(folder: Path) -> bool:
  """Returns whether a folder or a direct subfolder has such a CSV."""
  return bool(_files(folder))


def read(folder: Path, videos: VideoFiles) -> Index:
  """Returns the rows of the CSV files, except files without labels (test sets)."""
  rows: list[Annotation] = []
  uncertain: set[int] = set()  # rows for which the file's length must be checked
  notes, origins = [], dict[str, Path]()
  files = _files(folder)
  for file in files:
    table = read_table(file, _COLUMNS)
    if 'label' not in table[0][1]:
      notes.append(f'{file.name} has no labels: left out')
      continue
    for where, cells in table:
      row, certain = _row(where, cells, videos)
      if origins.setdefault(row.split, file) != file:
        raise DataError(
          f'{where} and {origins[row.split]} both list {row.split} videos: give the folder of one '
          'data set with --annotations=FOLDER'
        )
      if not certain:
        uncertain.add(len(rows))
      rows.append(row)
  if not rows:
    raise DataError(f'{files[0]} has no labels: also give the annotations of train or validation')
  lengths = _lengths(videos.folder, sorted({str(rows[i].path) for i in uncertain}))
  for i in uncertain:
    start, end, length = rows[i].start or 0.0, rows[i].end or 0.0, lengths[str(rows[i].path)]
    if length < end - 1 or length <= _WHOLE * (end - start):
      rows[i] = dataclasses.replace(rows[i], start=None, end=None)
  # Class ids must not depend on which videos exist; the validation set also has all classes.
  names = {row.names[0] for row in rows if row.split == 'train'} or {row.names[0] for row in rows}
  return Index(
    tuple(rows), {'label': tuple(sorted(names))}, notes=tuple(notes), inputs=tuple(files)
  )


def _files(folder: Path) -> list[Path]:
  files = [file for place in (folder, *subfolders(folder)) for file in sorted(place.glob('*.csv'))]
  return [file for file in files if file.is_file() and _is_ours(file)]


def _is_ours(file: Path) -> bool:
  with file.open(encoding='utf-8-sig', errors='replace') as handle:
    header = {name.strip(' "') for name in handle.readline().strip().split(',')}
  return {'youtube_id', 'time_start'} <= header


def _row(where: str, cells: Cells, videos: VideoFiles) -> tuple[Annotation, bool]:
  """Returns an annotation, and whether the segment within its file is certain."""
  split, video, label = split_name(cells['split']), cells['youtube_id'].strip(), cells['label']
  if split is None:
    raise DataError(f'{where} split={cells["split"]!r} is not train, val or test')
  start, end = parse_span(where, cells['time_start'], cells['time_end'])
  if not video or '/' in video or start is None or end is None:
    raise DataError(f'{where} needs a youtube_id, a time_start and a time_end: {cells}')
  name = f'{video}_{round(start):06d}_{round(end):06d}'
  row = Annotation(split, videos.find(name, split), (label.strip(),), name, where)
  if row.path is not None:
    return row, True
  path = videos.find(video, split)
  return dataclasses.replace(row, path=path, start=start, end=end), path is None


def _lengths(folder: Path, paths: list[str]) -> dict[str, float]:
  """Returns the durations of files in seconds, from their headers; 0 if unreadable."""
  with ThreadPool(8) as pool:
    found = pool.imap(lambda path: _length(folder / path), paths, chunksize=16)
    bar = tqdm(
      found, 'reading lengths', len(paths), unit=' videos', disable=None if paths else True
    )
    return dict(zip(paths, bar, strict=True))


def _length(file: Path) -> float:
  try:
    with av.open(f'{LOCAL}{file}', container_options=OPEN_OPTIONS) as container:
      return (container.duration or 0) / av.time_base
  except ERRORS:
    return 0.0
