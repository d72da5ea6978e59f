# SPDX-License-Identifier: Apache-2.0
"""Which code this process runs, so that programs compiled in two processes are the same."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from vivit_jax import __version__

PACKAGE = Path(__file__).parent.parent


def versions() -> dict[str, str]:
  """Returns what `cluster.agree` compares: versions, and a digest of the package's own files."""
  digest = hashlib.sha256()
  for file in sorted(PACKAGE.rglob('*.py')):
    digest.update(f'{file.relative_to(PACKAGE)}\0'.encode() + file.read_bytes() + b'\0')
  return {
    'the version of vivit_jax': __version__,
    'the code of vivit_jax': digest.hexdigest()[:16],
    'the version of jax': version('jax'),
    'the version of jaxlib': version('jaxlib'),
  }
