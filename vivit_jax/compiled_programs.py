# SPDX-License-Identifier: Apache-2.0
"""JAX's cache of compiled programs, from which a second start of the same command is quick."""

import hashlib
import os
import platform
from pathlib import Path

import jax

CPU = Path('/proc/cpuinfo')
# Lines that say what a core can do and what the compiler tunes for; not its clock, say.
TOLD = (
  'vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags',  # x86
  'CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part', 'CPU revision', 'Features',
)  # fmt: skip


def keep_compiled_programs() -> None:
  """Keeps them in $VIVIT_CACHE/compiled, by default ~/.cache/vivit_jax/compiled.

  To be called before anything is computed, since JAX asks for the folder only once. A folder that
  the user gave to JAX itself stays. A program for CPUs may use instructions that another machine
  which shares the home folder lacks, and the name that JAX gives it does not say so: each kind of
  CPU has a folder of its own, and where Linux does not tell the kind nothing is kept.
  """
  if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
    return
  cache = Path(os.environ.get('VIVIT_CACHE') or Path.home() / '.cache/vivit_jax').expanduser()
  folder = cache / 'compiled'
  if jax.default_backend() == 'cpu':
    kind = kind_of_cpu()
    if kind is None:
      return
    folder /= f'cpu-{kind}'
  jax.config.update('jax_compilation_cache_dir', str(folder))


def kind_of_cpu(told: Path = CPU) -> str | None:
  """Returns a digest of what this machine's CPUs are and can do; None: it is not known.

  Args:
    told: file in the format of /proc/cpuinfo.
  """
  try:
    lines = told.read_text(errors='replace').splitlines()
  except OSError:
    return None
  facts = {line for line in lines if line.partition(':')[0].strip() in TOLD}
  if not any(line.startswith(('flags', 'Features')) for line in facts):
    return None
  # Sorted and without repetition: of all cores, so that machines with two kinds differ from both.
  said = '\n'.join([platform.machine(), *sorted(facts)])
  return hashlib.sha256(said.encode()).hexdigest()[:16]
