# SPDX-License-Identifier: Apache-2.0
"""The manifests that an experiment's configuration names."""

from pathlib import Path

from vivit_jax.config import Config
from vivit_jax.data import moving_digits
from vivit_jax.data.manifest import Manifest, read_manifest
from vivit_jax.errors import ConfigError, DataError


def data_root(config: Config) -> Path:
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
  root = Path(config.data.root).expanduser()
  if not root.is_dir():
    raise DataError(f'config.data.root={config.data.root} is not a folder')
  return root


def open_split(config: Config, split: str) -> Manifest:
  """Returns one split's manifest; `test` is `validation` where the data has no test.csv."""
  root = data_root(config)
  if split == 'test' and not (root / 'test.csv').exists():
    split = 'validation'
  return read_manifest(root, split, config.task)
