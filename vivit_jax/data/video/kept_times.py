# SPDX-License-Identifier: Apache-2.0
"""A cache of frame times for large files whose containers have no table of them.

It is in the cache folder, since the videos may be on a read-only disk. The key of a file is its
path, size and modification time, and the FFmpeg version.
"""

import contextlib
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
from jaxtyping import Int64

from vivit_jax.files import cache_folder, replace_file

LEAST = 2**23  # minimum file size in bytes; smaller files are read quickly enough
READER = np.array([*av.library_versions['libavformat'], *av.library_versions['libavcodec']])
_told = False  # whether the warning about an unwritable cache was printed


def of(path: str) -> 'Kept | None':
  """Returns the cache entry of a local file, or None if the file is too small for one.

  Raises:
    OSError: the file is not accessible.
  """
  about = os.stat(path)
  return Kept(path, about) if about.st_size >= LEAST else None


class Kept:
  """Cache entry of one local file."""

  def __init__(self, path: str, about: os.stat_result):
    """Takes the file and its stat result."""
    self._facts = np.array([about.st_size, about.st_mtime_ns, *READER])
    name = hashlib.sha256(os.path.abspath(path).encode(errors='surrogateescape')).hexdigest()
    self._file = cache_folder('frame_times') / name[:2] / f'{name[:32]}.npz'

  def load(self) -> tuple[Int64[np.ndarray, ' n'], Int64[np.ndarray, 'k 2'], bool] | None:
    """Returns times, keys and whether frames are counted, or None if there is no valid entry."""
    # A damaged cache file counts as missing.
    with (
      contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
      np.load(io.BytesIO(self._file.read_bytes()), allow_pickle=False) as kept,
    ):
      times, keys, facts = kept['times'], kept['keys'], kept['facts']
      fits = times.dtype == keys.dtype == np.int64 and times.ndim == 1 and keys.shape[1:] == (2,)
      if fits and len(times) and np.array_equal(facts, self._facts):
        return times, keys, bool(kept['counted'])
    return None

  def keep(
    self, times: Int64[np.ndarray, ' n'], keys: Int64[np.ndarray, 'k 2'], counted: bool
  ) -> None:
    """Writes the entry; warns once per process if that is not possible.

    Processes that write at the same time write the same content, each atomically.
    """
    content = io.BytesIO()
    np.savez(content, times=times, keys=keys, counted=np.array(counted), facts=self._facts)
    try:
      self._file.parent.mkdir(parents=True, exist_ok=True)
      replace_file(self._file, content.getvalue())
    except OSError as error:
      _tell(self._file, error)


def _tell(file: Path, error: OSError) -> None:
  global _told
  if not _told:
    _told = True
    print(
      f'vivit: warning: frame times cannot be kept in {file.parent.parent} ({error.strerror}): '
      'every clip of a long video reads the whole file; set VIVIT_CACHE to a writable folder',
      file=sys.stderr,
      flush=True,
    )
