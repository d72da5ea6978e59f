# SPDX-License-Identifier: Apache-2.0
"""Opens the manifests of a config, without the bad videos listed by `vivit data check`."""

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
  """Returns the folder of the manifests; generates the built-in data set if it is configured.

  Raises:
    ConfigError: no folder is configured.
    DataError: the folder does not exist.
  """
  if config.data.source == 'moving_digits':
    return moving_digits.ensure(config.data.moving_digits)
  if config.data.root is None:
    raise ConfigError(
      'config.data.root is not set: give the folder of train.csv, validation.csv and classes/'
    )
  root = folder(config.data.root)
  # Object stores have no folders; a missing remote root is reported when its files are read.
  if isinstance(root, Path) and not root.is_dir():
    raise DataError(f'config.data.root={config.data.root} is not a folder')
  return root


def evaluation_split(config: Config) -> str:
  """Returns the test split of a run: `test`, or `validation` if the data has no test.csv."""
  if is_own(config.data.source):
    return 'test' if own_source.has_split(config, 'test') else 'validation'
  return 'test' if exists(data_root(config) / 'test.csv') else 'validation'


def open_split(config: Config, split: str) -> Manifest:
  """Returns the manifest of a split, without the bad videos listed by `vivit data check`.

  Raises:
    DataError: the split does not exist (the message lists existing ones), or it is invalid.
  """
  if is_own(config.data.source):
    return own_source.open_own(config, split)
  root = data_root(config)
  if isinstance(root, Path):
    read = open_prepared if is_prepared(root) else read_manifest
    return leave_out(read(root, split, config.task), root)
  if exists(root / FACTS):
    raise DataError(
      f'{root} has shards, which must be on a local disk: copy the folder first, '
      f'e.g. gcloud storage cp -r {root} .'
    )
  return read_manifest(root, split, config.task)


def with_classes(config: Config) -> Config:
  """Returns the config with the number of classes filled in from the data if it is not set.

  A masked task has no classes.

  Raises:
    ConfigError, DataError: it is not set, and the data or its list of classes is missing.
  """
  if config.task.classes or config.task.kind == 'masked':
    return config
  if is_own(config.data.source):
    counts = own_source.class_counts(config)
  else:
    names = read_class_names(data_root(config), config.task)
    counts = tuple(len(names[head]) for head in config.task.heads)
  if 0 in counts:
    raise DataError(f'classes/{config.task.heads[counts.index(0)]}.txt has no class names')
  return dataclasses.replace(config, task=dataclasses.replace(config.task, classes=counts))


FILE = 'quarantine.csv'
COLUMNS = ('path', 'start', 'end', 'reason')


@dataclasses.dataclass(frozen=True)
class Bad:
  """A video, or a span of a video, that cannot be read."""

  path: str  # as in the manifest
  start: float | None  # start and end of the manifest row's span; both None = the whole file
  end: float | None
  reason: str

  @property
  def kind(self) -> str:
    """The first words of the reason, for grouping."""
    return self.reason.partition(':')[0]


def read_list(file: Path) -> list[Bad]:
  """Returns the entries of a list, or [] if the file does not exist; raises DataError."""
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
  """Returns a manifest of files without the videos listed in `root/quarantine.csv`.

  The manifest's fingerprint changes with the set of remaining videos. The number of videos left out
  is printed.

  Raises:
    DataError: the list is invalid or contains all videos.
  """
  if manifest.contents is not None:
    return manifest  # prepared videos were verified when written
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
    raise DataError(f'{which} are listed in {root / FILE}: no video is left')
  print(f'{which} are left out, as listed in {root / FILE}', flush=True)
  parts = [manifest.fingerprint, *(f'{v.path[len(str(root)) :]}:{v.start}:{v.end}' for v in out)]
  digest = hashlib.sha256('\0'.join(parts).encode('utf-8', 'surrogatepass')).hexdigest()
  return dataclasses.replace(manifest, videos=kept, fingerprint=digest[:16])
