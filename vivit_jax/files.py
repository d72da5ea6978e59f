# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader, or a kill, sees the old one or the new one whole."""

import json
import os
from pathlib import Path
from typing import Any


def replace_file(path: Path, data: bytes) -> None:
  """Writes or replaces a file; two processes that do so at once leave one of both."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_bytes(data)
  temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
  """Writes or replaces a JSON file, its folder made if missing."""
  data = json.dumps(content, indent=1, sort_keys=True).encode() + b'\n'
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_file(path, data)
