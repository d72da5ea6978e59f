# SPDX-License-Identifier: Apache-2.0
"""The manifests that an experiment's configuration names.

They leave out the bad videos in the list that `vivit data check` writes.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vivit_jax.config.importable import is_own
from vivit_jax.config.schema import Config
from vivit_jax.data import moving_digits, own_source
from vivit_jax.data.manifest import Manifest, parse_seconds, read_class_names, read_manifest
from vivit_jax.data.prepare.shards import FACTS, is_prepared, open_prepared
from vivit_jax.data.storage import Folder, exists, folder
from vivit_jax.data.tables import MissingFileError, as_csv, parse_table, read_text
from vivit_jax.errors import ConfigError, DataError
from vivit_jax.files import replace_file


def data_root(config: Config) -> Folder:
  """Returns the folder of the manifests; generates the embedded data set where it is asked for.

  Raises:
    ConfigError: where no folder is given.
    DataError: where it does not exist.
  """
  if config.data.source == 'moving_digits':
    return moving_digits.ensure(config.data.moving_digits)
  if config.data.root is None:
    raise ConfigError(
      'config.data.root is not set: give the folder of train.csv, validation.csv and classes/'
    )
  root = folder(config.data.root)
  # Of a remote one that is said where its files are read: there are no folders.
  if isinstance(root, Path) and not root.is_dir():
    raise DataError(f'config.data.root={config.data.root} is not a folder')
  return root


def evaluation_split(config: Config) -> str:
  """Returns the split that a run is tested on: `validation` where the data has no test.csv."""
  if is_own(config.data.source):
    return 'test' if own_source.has_split(config, 'test') else 'validation'
  return 'test' if exists(data_root(config) / 'test.csv') else 'validation'


def open_split(config: Config, split: str) -> Manifest:
  """Returns one split's manifest, without the videos that `vivit data check` found to be bad.

  Raises:
    DataError: where the data has no such split, naming those that it has, or cannot be used.
  """
  if is_own(config.data.source):
    return own_source.open_own(config, split)
  root = data_root(config)
  if isinstance(root, Path):
    read = open_prepared if is_prepared(root) else read_manifest
    return leave_out(read(root, split, config.task), root)
  if exists(root / FACTS):
    raise DataError(
      f'{root} holds shards, which are read from a local disk: copy it there, '
      f'e.g. gcloud storage cp -r {root} .'
    )
  return read_manifest(root, split, config.task)


def with_classes(config: Config) -> Config:
  """Returns the configuration with the number of classes that the data has, where it gives none.

  A masked task has no classes.

  Raises:
    ConfigError, DataError: where it gives none and there is no data, or no list of its classes.
  """
  if config.task.classes or config.task.kind == 'masked':
    return config
  if is_own(config.data.source):
    counts = own_source.class_counts(config)
  else:
    names = read_class_names(data_root(config), config.task)
    counts = tuple(len(names[head]) for head in config.task.heads)
  if 0 in counts:
    raise DataError(f'classes/{config.task.heads[counts.index(0)]}.txt names no class')
  return dataclasses.replace(config, task=dataclasses.replace(config.task, classes=counts))


FILE = 'quarantine.csv'
COLUMNS = ('path', 'start', 'end', 'reason')


@dataclasses.dataclass(frozen=True)
class Bad:
  """A video, or one span of it, that cannot be read."""

  path: str  # as in the manifest
  start: float | None  # with `end`, the span of the manifest's row; both None = the whole file
  end: float | None
  reason: str

  @property
  def kind(self) -> str:
    """The first words of the reason, which many videos share."""
    return self.reason.partition(':')[0]


def read_list(file: Path) -> list[Bad]:
  """Returns what a list holds, nothing where there is none; raises DataError."""
  try:
    table = parse_table(file, read_text(file), COLUMNS)
  except MissingFileError:
    return []
  except DataError as error:
    raise DataError(f'{error}; run `vivit data check` again') from None
  found = []
  for where, cells in table:
    start, end = (parse_seconds(where, name, cells[name]) for name in ('start', 'end'))
    found.append(Bad(cells['path'], start, end, cells['reason']))
  return found


def write_list(file: Path, found: Iterable[Bad]) -> None:
  """Writes or replaces a list."""
  replace_file(file, as_csv([COLUMNS, *map(dataclasses.astuple, found)]))


def leave_out(manifest: Manifest, root: Path) -> Manifest:
  """Returns a manifest of files without the videos that `root/quarantine.csv` lists.

  Its fingerprint tells it from one that has others of them; a line on the terminal says how many
  are left out.

  Raises:
    DataError: a list that cannot be used, or all videos are on it.
  """
  if manifest.contents is not None:
    return manifest  # prepared videos were verified as they were written
  root = Path(os.path.abspath(root))
  listed = {(str(root / bad.path), bad.start, bad.end) for bad in read_list(root / FILE)}
  out = [
    video
    for video in manifest.videos
    if not listed.isdisjoint({(video.path, None, None), (video.path, video.start, video.end)})
  ]
  if not out:
    return manifest
  gone = set(out)
  kept = tuple(video for video in manifest.videos if video not in gone)
  which = f'{len(out)} of the {len(manifest.videos)} videos in {manifest.split}.csv'
  if not kept:
    raise DataError(f'{which} are on {root / FILE}: none is left')
  print(f'{which} are left out: {root / FILE} says why', flush=True)
  parts = [manifest.fingerprint, *(f'{v.path[len(str(root)) :]}:{v.start}:{v.end}' for v in out)]
  digest = hashlib.sha256('\0'.join(parts).encode('utf-8', 'surrogatepass')).hexdigest()
  return dataclasses.replace(manifest, videos=kept, fingerprint=digest[:16])
