# SPDX-License-Identifier: Apache-2.0
"""One's own folder of videos, whose folders name the classes.

    FOLDER/train/<class>/*.mp4      and validation/ (or val/), test/ likewise; or
    FOLDER/<class>/*.mp4            divided into train and validation

A class folder is searched at any depth. Ids are alphabetical.
"""

from pathlib import Path, PurePosixPath

from vivit_jax.data.index.divide import SHARE, divide
from vivit_jax.data.index.rows import Index, Row, refuse_alike, split_name
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.errors import DataError


def read(videos: VideoFiles) -> Index:
  """Returns the videos of a folder; raises DataError where their class cannot be told."""
  parts = {path: PurePosixPath(path).parts for path in videos.paths}
  tops = {p[0] for p in parts.values() if len(p) > 1}
  # A class may be called 'train' too: then videos lie directly in it.
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
      raise DataError(f'{videos.folder} {path!r} has no class: put it into a folder, {layout!r}')
    folders.add(below[0])
    row = Row(split or 'train', path, (below[0].strip(),), path, where=str(videos.folder))
    rows.append(row)
  refuse_alike(str(videos.folder), folders)
  _refuse_empty(videos.folder, tops if has_splits else None, {row.names[0] for row in rows})
  notes = [f'{len(elsewhere)} videos outside of train, validation and test are left out']
  notes = [*(notes if elsewhere else []), *videos.notes, *videos.others]
  if all(row.split != 'validation' for row in rows):
    rows = divide(rows)
    notes.append(
      f'no validation folder: {SHARE:.0%} of the videos of each class, by the hash of their path'
    )
  names = sorted({row.names[0] for row in rows})
  return Index(tuple(rows), {'label': tuple(names)}, notes=tuple(notes))


def _refuse_empty(folder: Path, splits: set[str] | None, classes: set[str]) -> None:
  """Refuses class folders that have no video in any split: a mistake, and no class to learn."""
  tops = [folder] if splits is None else [folder / top for top in splits if split_name(top)]
  for place in [p for top in tops for p in sorted(top.iterdir()) if p.is_dir()]:
    name = place.name
    ours = splits is None and (name == 'classes' or split_name(name))
    if name.strip() not in classes and not name.startswith('.') and not ours:
      raise DataError(f'{place} has no videos, so {name!r} cannot be learned: fill or remove it')
