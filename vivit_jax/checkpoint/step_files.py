# SPDX-License-Identifier: Apache-2.0
"""Checks that Orbax lacks: special characters in paths, pipes, missing files, changed JSON."""

import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vivit_jax.errors import ConfigError


def literal_path(folder: Path, *, make: bool) -> tuple[Path, Callable[[], None]]:
  """Returns an equivalent path without glob characters, and a function that releases it.

  Orbax treats whole paths as glob patterns: in a folder `lr[0.1]` it does not find the files that
  it has written, and the saved step cannot be read.

  Args:
    folder: an absolute path.
    make: whether to create the folder if it is missing.

  Raises:
    ConfigError: the system cannot provide such a path.
  """
  found = re.search(r'[*?[]', str(folder))
  if make:
    folder.mkdir(parents=True, exist_ok=True)
  if found is None or not folder.is_dir():
    return folder, lambda: None
  descriptors = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
  place = Path(f'/proc/self/fd/{descriptors[0]}')
  if not place.is_dir():  # not Linux
    os.close(descriptors[0])
    raise ConfigError(
      f'{folder} has a {found[0]!r} in its path, where checkpoints cannot be saved on this system: '
      'give a path without it'
    )
  return place, lambda: os.close(descriptors.pop()) if descriptors else None


def delete_incomplete(step: Path, item: str) -> None:
  """Deletes a step if a file that is required to restore it is missing.

  Raises:
    FileNotFoundError: a file is missing; the message names it.
  """
  for part in (f'{item}/manifest.ocdbt', f'{item}/_METADATA', 'about/metadata'):
    if not (step / part).is_file():
      shutil.rmtree(step)
      raise FileNotFoundError(f'{part} was not written')


def check_regular_files(folder: Path) -> None:
  """Raises ValueError for other things than files and folders, FileNotFoundError for dead links."""
  for path in folder.rglob('*'):
    if path.is_symlink() or not path.is_dir():
      check_regular(path)


def check_regular(file: Path) -> None:
  """Raises ValueError if a path is not a regular file; reading a pipe would block forever."""
  if not stat.S_ISREG(file.stat().st_mode):
    raise ValueError(f'{file.name} in {file.parent.name}/ is not a regular file')


def seal(about: dict[str, Any]) -> dict[str, Any]:
  """Returns JSON values with an added checksum."""
  about = json.loads(json.dumps(about))
  return {'about': about, 'crc32': _crc32(about)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
  """Returns the values without the checksum; raises ValueError if it does not match."""
  if 'crc32' not in sealed:
    raise ValueError('it has no fingerprints, as of an earlier version')
  if _crc32(sealed['about']) != sealed['crc32']:
    raise ValueError('its stored settings have changed')
  return sealed['about']


def _crc32(about: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(about, sort_keys=True).encode())
