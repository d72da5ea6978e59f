# SPDX-License-Identifier: Apache-2.0
"""The user's own videos: a folder with class folders, or one CSV file.

    FOLDER/train/<class>/*.mp4      and validation/ (or val/), test/ likewise; or
    FOLDER/<class>/*.mp4            split into train and validation; or
    FOLDER/**/*.mp4                 the same without labels (`unlabeled`)

Class folders are searched at any depth. Class ids are in alphabetical order.

    path,label[,start][,end][,split]

`path` is relative to the file's folder, `start` and `end` are in seconds, and `split` is train,
validation or test; without it, the videos are split automatically. Every other column is a head of
the task. A column is multi-label if a cell has several names, separated by '|'. Class ids are in
alphabetical order.
"""

from pathlib import Path, PurePosixPath

from vivit_jax.data.index.annotations import (
  SHARE,
  Annotation,
  Index,
  refuse_alike,
  split_name,
  split_train_validation,
  tags,
)
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.data.manifest import SEPARATOR, check_path, parse_span
from vivit_jax.data.tables import read_table
from vivit_jax.errors import DataError


def read_folder(videos: VideoFiles) -> Index:
  """Returns the videos of a folder; raises DataError if the class of a video is unclear."""
  parts = {path: PurePosixPath(path).parts for path in videos.paths}
  tops = {p[0] for p in parts.values() if len(p) > 1}
  # A class may also be called 'train'; then videos are directly in it.
  flat = {p[0] for p in parts.values() if len(p) == 2}
  has_splits = any(
    split_name(top) == 'train' and (top not in flat or all(map(split_name, tops))) for top in tops
  )
  rows, elsewhere, folders = [], [], set[str]()
  for path, (*above, name) in parts.items():
    split = split_name(above[0]) if has_splits and above else 'train'
    if has_splits and split is None:
      elsewhere.append(path)
      continue
    below = above[1:] if has_splits else above
    if not below:
      layout = f'{"/".join([*above, ""])}<class>/{name}'
      raise DataError(
        f'{videos.folder} {path!r} has no class: put it into a folder, {layout!r}, or give '
        '--format=unlabeled for masked pretraining'
      )
    folders.add(below[0])
    row = Annotation(split or 'train', path, (below[0].strip(),), path, where=str(videos.folder))
    rows.append(row)
  refuse_alike(str(videos.folder), folders)
  _refuse_empty(videos.folder, tops if has_splits else None, {row.names[0] for row in rows})
  notes = [f'{len(elsewhere)} videos outside of train, validation and test are left out']
  notes = [*(notes if elsewhere else []), *videos.notes, *videos.others]
  if all(row.split != 'validation' for row in rows):
    rows = split_train_validation(rows)
    notes.append(
      f'no validation folder: {SHARE:.0%} of the videos of each class, by the hash of their path'
    )
  names = sorted({row.names[0] for row in rows})
  return Index(tuple(rows), {'label': tuple(names)}, notes=tuple(notes))


def read_unlabeled(videos: VideoFiles) -> Index:
  """Returns all videos of a folder, at any depth, without classes: for masked pretraining."""
  where = str(videos.folder)
  rows = split_train_validation(
    Annotation('train', path, (), path, where=where) for path in videos.paths
  )
  notes = (
    f'without labels: {SHARE:.0%} of the videos are for validation, by the hash of their path',
    *videos.notes,
    *videos.others,
  )
  return Index(tuple(rows), {}, notes=notes)


def _refuse_empty(folder: Path, splits: set[str] | None, classes: set[str]) -> None:
  """Rejects class folders without videos in any split, which are probably a mistake."""
  tops = [folder] if splits is None else [folder / top for top in splits if split_name(top)]
  for place in [p for top in tops for p in sorted(top.iterdir()) if p.is_dir()]:
    name = place.name
    ours = splits is None and (name == 'classes' or split_name(name))
    if name.strip() not in classes and not name.startswith('.') and not ours:
      raise DataError(f'{place} has no videos of class {name!r}: add videos or remove the folder')


_OURS = ('path', 'start', 'end', 'split')


def read_list(file: Path) -> Index:
  """Returns the videos listed in a CSV file; raises DataError with file and line."""
  table = read_table(file, ('path',))
  heads = [name for name in (table[0][1] if table else ()) if name not in _OURS]
  if not heads:
    raise DataError(f'{file} has no column with class names: add one, e.g. path,label')
  multi_label = any(SEPARATOR in cells[head] for _, cells in table for head in heads)
  if multi_label and len(heads) > 1:
    raise DataError(f'{file}: a multi-label CSV must have one class column, not {heads}')
  rows = []
  for where, cells in table:
    path = cells['path']
    check_path(where, path, file.parent)
    split = split_name(cells['split']) if 'split' in cells else 'train'
    if split is None:
      raise DataError(f'{where} split={cells["split"]!r} is not train, validation or test')
    for head in heads:
      if not cells[head].strip() and not multi_label:
        raise DataError(f'{where} {head} is empty: give the name of a class')
    there = path if (file.parent / path).is_file() else None
    start, end = parse_span(where, cells.get('start'), cells.get('end'))
    names = tuple(cells[head].strip() for head in heads)
    rows.append(Annotation(split, there, names, path, where, start, end))
  spaced = [where for where, cells in table if any(cells[h] != cells[h].strip() for h in heads)]
  notes = []
  if spaced:
    notes.append(
      f'{len(spaced):,} rows have spaces around class names, which are removed, e.g. {spaced[0]}'
    )
  if 'split' not in table[0][1]:
    rows = split_train_validation(rows)
    notes.append(
      f'no split column: validation has {SHARE:.0%} of each class, by the hash of the path'
    )
  classes = {}
  for i, head in enumerate(heads):
    cells_of = [tags(row.names[i]) if multi_label else [row.names[i]] for row in rows]
    refuse_alike(f'{file} {head}', {name for names in cells_of for name in names})
    classes[head] = tuple(sorted({name for names in cells_of for name in names}))
  return Index(tuple(rows), classes, multi_label, tuple(notes), (file,))
