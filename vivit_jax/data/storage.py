# SPDX-License-Identifier: Apache-2.0
"""Folders with manifests and videos, on a local disk or in Cloud Storage (gs://)."""

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
  """Returns whether a folder is in Cloud Storage."""
  return str(root).startswith(CLOUD)


def folder(root: str | os.PathLike) -> Folder:
  """Returns a folder as an absolute local path, or as a remote path if it is in Cloud Storage.

  Raises:
    DataError: the packages for gs:// are not installed.
  """
  if not is_remote(root):
    return Path(os.path.abspath(Path(root).expanduser()))
  # Otherwise etils would import and use TensorFlow if it is installed.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  # Otherwise each request first queries the bucket's metadata, which needs more permissions.
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  try:
    import gcsfs  # noqa: F401
  except ImportError as error:
    raise DataError(f'{root} needs {error.name}: pip install "vivit_jax[hub]"') from None
  return epath.Path(root)


@contextlib.contextmanager
def reading(address: str | os.PathLike) -> Iterator[None]:
  """Converts errors of Cloud Storage to a one-line DataError."""
  try:
    yield
  except (DataError, FileNotFoundError):
    raise
  except Exception as error:  # from gcsfs, aiohttp or google.auth, without a common base
    if not is_remote(address):
      raise
    raise DataError(f'{address} cannot be read: {_line(error)}') from error


def exists(file: Folder) -> bool:
  """Returns whether a small file exists; raises DataError if Cloud Storage cannot tell."""
  if isinstance(file, Path):
    return file.exists()
  try:
    with reading(file):
      file.read_bytes()  # gcsfs.exists returns False if permission is denied
  except FileNotFoundError:
    return False
  return True


class Objects:
  """Videos in Cloud Storage by index, with one request per video.

  Connections are opened on the first read in a process, so it can be sent to other processes.
  """

  def __init__(self, addresses: tuple[str, ...]):
    self._addresses = addresses

  def __getitem__(self, index: int) -> bytes:
    """Returns the bytes of a video; raises DecodeError if it fails after gcsfs's retries."""
    import fsspec

    address = self._addresses[index]
    try:
      # epath's read_bytes needs three requests: for the object, a folder of that name, and the
      # content. fsspec caches one file system per process and thread.
      content: Any = fsspec.filesystem('gs').cat_file(address)
    except Exception as error:
      what = 'gone' if isinstance(error, FileNotFoundError) else _line(error)
      raise DecodeError(address, f'cannot be read from Cloud Storage: {what}') from error
    return content


def _line(error: Exception) -> str:
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]
