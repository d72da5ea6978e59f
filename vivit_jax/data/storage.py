# SPDX-License-Identifier: Apache-2.0
"""Folders of manifests and the videos beside them, on a local disk or in Cloud Storage (gs://)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError

CLOUD = 'gs://'
Folder: TypeAlias = Path | epath.Path


def is_remote(root: str | os.PathLike) -> bool:
  """Whether a folder is in Cloud Storage."""
  return str(root).startswith(CLOUD)


def folder(root: str | os.PathLike) -> Folder:
  """Returns the path of a folder: absolute, or where it is remote, one that is read over network.

  Raises:
    DataError: gs:// without the packages that it needs.
  """
  if not is_remote(root):
    return Path(os.path.abspath(Path(root).expanduser()))
  # Where TensorFlow is installed, etils would read through it, and import it for that.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  # Else each request is preceded by a question about the bucket, which a reader may not ask.
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  try:
    import gcsfs  # noqa: F401
  except ImportError as error:
    raise DataError(f'{root} needs {error.name}: pip install "vivit_jax[hub]"') from None
  return epath.Path(root)


@contextlib.contextmanager
def reading(address: str | os.PathLike) -> Iterator[None]:
  """Turns what Cloud Storage answers instead of content into a DataError of one line."""
  try:
    yield
  except (DataError, FileNotFoundError):
    raise
  except Exception as error:  # of gcsfs, aiohttp and google.auth, which have no common type
    if not is_remote(address):
      raise
    raise DataError(f'{address} cannot be read: {_line(error)}') from error


def exists(file: Folder) -> bool:
  """Whether a small file is there; raises DataError where Cloud Storage doesn't say."""
  if isinstance(file, Path):
    return file.exists()
  try:
    with reading(file):
      file.read_bytes()  # gcsfs says of what it may not read that it does not exist
  except FileNotFoundError:
    return False
  return True


class Objects:
  """The videos at addresses in Cloud Storage by index, one request each.

  Nothing is opened before the first read in a process, so it can be sent to others.
  """

  def __init__(self, addresses: tuple[str, ...]):
    self._addresses = addresses

  def __getitem__(self, index: int) -> bytes:
    """Raises DecodeError where it cannot be read, after the attempts of gcsfs."""
    import fsspec

    address = self._addresses[index]
    try:
      # Not epath's read_bytes, which asks three times: about the object, for a folder of that name,
      # and for the content. fsspec keeps one file system per process and thread.
      content: Any = fsspec.filesystem('gs').cat_file(address)
    except Exception as error:
      what = 'gone' if isinstance(error, FileNotFoundError) else _line(error)
      raise DecodeError(address, f'cannot be read from Cloud Storage: {what}') from error
    return content


def _line(error: Exception) -> str:
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]
