# SPDX-License-Identifier: Apache-2.0
"""Writes tensors as a safetensors file: whole or not at all, with a new file's permissions."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy


def write_tensors(
  path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes a file, which is replaced if it exists; readers never see half of it."""
  temporary = path.with_name(f'{path.name}.partial')
  temporary.unlink(missing_ok=True)  # of a run that was killed, perhaps with other permissions
  temporary.touch()
  permissions = temporary.stat().st_mode & 0o777
  safetensors.numpy.save_file(dict(tensors), temporary, dict(metadata))
  temporary.chmod(permissions)  # some versions of the library leave the file to its owner alone
  os.replace(temporary, path)
