# SPDX-License-Identifier: Apache-2.0
"""JAX's cache of compiled programs, from which a second start of the same command is quick."""

import os
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
  """Keeps them in $VIVIT_CACHE/compiled, by default ~/.cache/vivit_jax/compiled.

  To be called before anything is computed, since JAX asks for the folder only once. A folder that
  the user gave to JAX itself stays. Not on CPUs: programs for one may use instructions that another
  lacks, which shares the home folder, and JAX does not promise to tell them apart.
  """
  given = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
  if given is None and jax.default_backend() != 'cpu':
    cache = Path(os.environ.get('VIVIT_CACHE') or Path.home() / '.cache/vivit_jax').expanduser()
    jax.config.update('jax_compilation_cache_dir', str(cache / 'compiled'))
