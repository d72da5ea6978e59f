# SPDX-License-Identifier: Apache-2.0
"""Video Vision Transformers (ViViT, Arnab et al., ICCV 2021) in JAX."""

from pathlib import Path
from typing import Any

__version__ = '0.1.0'


def load_pretrained(path: str | Path, sha256: str | None = None, **hints: Any) -> Any:
  """See `pretrained.load_pretrained`, which this calls; imported late, so that --help is quick."""
  from vivit_jax.weights import pretrained

  return pretrained.load_pretrained(path, sha256, **hints)
