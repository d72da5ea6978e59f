# SPDX-License-Identifier: Apache-2.0
"""Makes local videos as slow to reach as those in an object store, to see what that costs."""

import dataclasses
import time
from pathlib import Path

from vivit_jax.data.manifest import Contents, Manifest
from vivit_jax.data.video.decode import DecodeError


@dataclasses.dataclass(frozen=True)
class Files:
  """The bytes of local files."""

  paths: tuple[str, ...]

  def __getitem__(self, index: int) -> bytes:
    """Raises DecodeError where a file cannot be read."""
    try:
      return Path(self.paths[index]).read_bytes()
    except OSError as error:
      raise DecodeError(self.paths[index], f'{type(error).__name__}: {error.strerror}') from None


@dataclasses.dataclass(frozen=True)
class Delayed:
  """Other contents, each after a wait."""

  contents: Contents
  seconds: float

  def __getitem__(self, index: int) -> bytes:
    """Raises DecodeError where the video cannot be read."""
    time.sleep(self.seconds)
    return self.contents[index]


def delayed(manifest: Manifest, seconds: float) -> Manifest:
  """Returns the same videos, `seconds` away."""
  contents = manifest.contents or Files(tuple(video.path for video in manifest.videos))
  return dataclasses.replace(manifest, contents=Delayed(contents, seconds))
