# SPDX-License-Identifier: Apache-2.0
"""Starts a command anew under an allocator that keeps large blocks: faster training on CPUs.

glibc returns each large block to the system when it is freed, and a step on CPUs gets all of its
memory anew: 200,000 page faults, a fifth of the time of the smallest model. mimalloc keeps them if
told to. glibc can be told so too (mallopt), but there a large block that is freed does not fit
again: base size took 8.2 GB and all of the faults; here 4.5 GB and none; 4.9 as glibc comes.

An allocator can only be chosen as a process starts. It comes with the package cmeel-mimalloc.
"""

import ctypes
import glob
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path

LIBRARY = 'libmimalloc.so'
MEMORY = (
  os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2**30 + 1
)  # of the machine, in GiB
SETTINGS = {
  # Addresses, not memory: larger blocks than this would be mappings of their own.
  'MIMALLOC_ARENA_RESERVE': f'{MEMORY}GiB',
  'MIMALLOC_ARENA_EAGER_COMMIT': '0',
  # Clearing pages of 2 MB that are used in part takes longer than the faults that they save.
  'MIMALLOC_ALLOW_THP': '0',
}
PURGE_DELAY, NEVER = 15, -1  # mi_option_purge_delay of mimalloc.h, in milliseconds
MARK = 'VIVIT_PRELOADED'  # what LD_PRELOAD was before
# What computes for long enough; the others start in less time than this takes.
COMMANDS = ('train', 'evaluate', 'predict', 'features', 'explain', 'timeline', 'serve')
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/accel*', '/dev/vfio/[0-9]*', '/dev/kfd')


def use_fast_allocator(arguments: list[str]) -> None:
  """Replaces this process by one with the allocator, once, where that is of use.

  Decoders and other children get the environment that the user gave this process.

  Args:
    arguments: of the command.
  """
  if MARK in os.environ:
    _forget(os.environ)
  elif reason(arguments, os.environ) is None:
    library = find_library()
    if library is not None:
      os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], preloading(library))
    if arguments[0] == 'train':
      print(
        f'vivit: hint: {LIBRARY} is not there, with which training on CPUs takes about a sixth '
        'less time: pip install cmeel-mimalloc',
        file=sys.stderr,
        flush=True,
      )


def keep_freed_blocks() -> None:
  """Has the allocator keep what is freed from now on, and give back what is free so far.

  To be called before the first step: kept from the start, base size took 6.5 GB instead of 4.5.
  Changes nothing under other allocators.
  """
  library = ctypes.CDLL(None)
  if hasattr(library, 'mi_option_set') and 'MIMALLOC_PURGE_DELAY' not in os.environ:
    library.mi_collect(ctypes.c_bool(True))
    library.mi_option_set(ctypes.c_int(PURGE_DELAY), ctypes.c_long(NEVER))


def reason(arguments: list[str], environment: Mapping[str, str]) -> str | None:
  """Returns why a command keeps the allocator that it has, None if it need not."""
  if not arguments or arguments[0] not in COMMANDS:
    return 'it computes little'
  if sys.platform != 'linux':
    return 'another system has another allocator'
  own = environment.get('LD_PRELOAD', ''), environment.get('GLIBC_TUNABLES', '')
  if any('malloc' in value for value in own) or any(n.startswith('MALLOC_') for n in environment):
    return 'the user has chosen'
  platforms = environment.get('JAX_PLATFORMS', '')
  if platforms != 'cpu' and any(glob.glob(pattern) for pattern in ACCELERATORS):
    return 'an accelerator computes'
  return None


def find_library() -> Path | None:
  """Returns the file of the allocator, None where its package is not installed."""
  try:
    files = importlib.metadata.files('cmeel-mimalloc') or []
  except importlib.metadata.PackageNotFoundError:
    return None
  found = [Path(str(file.locate())) for file in files if file.name == LIBRARY]
  return next((path for path in found if path.is_file()), None)


def preloading(library: Path) -> dict[str, str]:
  """Returns this process's environment with the allocator; what the user set of it stays."""
  before = os.environ.get('LD_PRELOAD', '')
  preload = ':'.join(filter(None, [str(library.resolve()), before]))
  return {**SETTINGS, **os.environ, 'LD_PRELOAD': preload, MARK: before}


def _forget(environment: 'os._Environ[str]') -> None:
  """Gives the environment back its state; the allocator has read it."""
  before = environment.pop(MARK)
  if before:
    environment['LD_PRELOAD'] = before
  else:
    environment.pop('LD_PRELOAD', None)
  for name, value in SETTINGS.items():
    if environment.get(name) == value:
      del environment[name]
