# SPDX-License-Identifier: Apache-2.0
"""The manifests that an experiment's configuration names."""

import dataclasses
from pathlib import Path

from vivit_jax.config import Config
from vivit_jax.data import moving_digits
from vivit_jax.data.manifest import Manifest, read_class_names, read_manifest
from vivit_jax.data.prepare.shards import FACTS, is_prepared, open_prepared
from vivit_jax.data.quarantine import leave_out
from vivit_jax.data.storage import Folder, exists, folder
from vivit_jax.errors import ConfigError, DataError


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
  return 'test' if exists(data_root(config) / 'test.csv') else 'validation'


def open_split(config: Config, split: str) -> Manifest:
  """Returns one split's manifest, without the videos that `vivit data check` found to be bad.

  Raises:
    DataError: where the data has no such split, naming those that it has, or cannot be used.
  """
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

  Raises:
    ConfigError, DataError: where it gives none and there is no data, or no list of its classes.
  """
  if config.task.classes:
    return config
  names = read_class_names(data_root(config), config.task)
  counts = tuple(len(names[head]) for head in config.task.heads)
  if 0 in counts:
    raise DataError(f'classes/{config.task.heads[counts.index(0)]}.txt names no class')
  return dataclasses.replace(config, task=dataclasses.replace(config.task, classes=counts))
