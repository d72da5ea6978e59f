# SPDX-License-Identifier: Apache-2.0
"""Frame times of large files whose containers have no table of them, kept from the first reading.

They lie in the cache folder, not beside the videos, which may be on a disk that is read only. A
file is known by its path, size and time of change, and by the FFmpeg that read it.
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

LEAST = 2**23  # bytes of a file; reading a smaller one takes less time than is worth a file
READER = np.array([*av.library_versions['libavformat'], *av.library_versions['libavcodec']])
_told = False  # that nothing can be kept


def of(path: str) -> 'Kept | None':
  """Looks at a local file before it is read; None: too small to keep anything of it.

  Raises:
    OSError: it cannot be looked at.
  """
  about = os.stat(path)
  return Kept(path, about) if about.st_size >= LEAST else None


class Kept:
  """What is kept of one local file."""

  def __init__(self, path: str, about: os.stat_result):
    """Takes the file and what the system says about it."""
    self._facts = np.array([about.st_size, about.st_mtime_ns, *READER])
    name = hashlib.sha256(os.path.abspath(path).encode(errors='surrogateescape')).hexdigest()
    self._file = cache_folder('frame_times') / name[:2] / f'{name[:32]}.npz'

  def load(self) -> tuple[Int64[np.ndarray, ' n'], Int64[np.ndarray, 'k 2'], bool] | None:
    """Returns times, keys and whether frames are counted; None: not known, or of another file."""
    # A file of this cache that is damaged is as good as none.
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
    """Writes what was found; says once in a process where that cannot be done.

    Two processes that write at once write the same, and a reader sees one of the two whole.
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
      'every clip of a long video reads the whole file; set VIVIT_CACHE to a folder that can be '
      'written',
      file=sys.stderr,
      flush=True,
    )
