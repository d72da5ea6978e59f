# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader, or a kill, sees the old one or the new one whole."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
  """Names the file in errors of writing it, which tell only of opening it which one it is."""
  try:
    yield
  except OSError as error:
    error.filename = str(path)
    raise


def replace_file(path: Path, data: bytes) -> None:
  """Writes or replaces a file; two processes that do so at once leave one of both."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with naming(path):
      temporary.write_bytes(data)
      temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def write_json(path: Path, content: Any) -> None:
  """Writes or replaces a JSON file, its folder made if missing."""
  data = json.dumps(content, indent=1, sort_keys=True).encode() + b'\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, data)
