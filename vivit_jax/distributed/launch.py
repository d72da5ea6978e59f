# SPDX-License-Identifier: Apache-2.0
"""Starts a process of a multi-process run, and JAX's cache of compiled programs."""

import argparse
import contextlib
import hashlib
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivit_jax.distributed import flags, hosts, meeting, shutdown
from vivit_jax.errors import ConfigError
from vivit_jax.files import cache_folder, discard_output

JOIN_TIMEOUT_SECONDS = 300.0  # until all processes have started
CONNECT_TIMEOUT_SECONDS = 60.0  # for JAX to connect the processes that have started
NAMES = ('coordinator_address', 'num_processes', 'process_id')
NUMBERS = (
  'SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_JOB_ID',
)  # fmt: skip
ADDRESS = 'JAX_COORDINATOR_ADDRESS'  # JAX's own name for --coordinator

HELP = """\
One of several processes, on one or several hosts, that run the same command. Without these options
a process joins others only in a SLURM step of several tasks (srun) and on a TPU pod slice, of which
JAX learns everything from the environment; else it is alone and contacts nobody."""


def add_launch(parser: argparse.ArgumentParser) -> None:
  """Adds the options that `start` reads."""
  group = parser.add_argument_group('several hosts', HELP)
  group.add_argument('--coordinator', metavar='HOST:PORT', help=f'of process 0 (${ADDRESS})')
  group.add_argument('--processes', type=int, metavar='N', help='how many there are')
  group.add_argument('--process', type=int, metavar='I', help="this one's number, 0 to N - 1")


def start(options: argparse.Namespace, heartbeat_timeout_seconds: int) -> None:
  """Joins the other processes, if any; must be called before JAX initializes its devices.

  Sets the compilers' recommended flags first, see `flags`. Afterwards all processes but the first
  print errors only, with their number before each line.

  Args:
    options: of `add_launch`.
    heartbeat_timeout_seconds: a process silent for this long is lost, and the others end.

  Raises:
    ConfigError: the options are invalid, or the other processes do not answer.
  """
  flags.set_recommended()
  given = any(x is not None for x in (options.coordinator, options.processes, options.process))
  found = not given and (_on_slurm() or _on_tpu())
  if given or (not found and ADDRESS in os.environ):
    arguments = _from_options(options)
  elif found:
    arguments = _from_environment()
  else:
    return
  address, processes, process = (arguments[name] for name in NAMES)
  if processes == 1:
    return
  meeting.meet(address, processes, process, JOIN_TIMEOUT_SECONDS)
  import jax
  from jax._src import distributed  # its key-value store has no public API

  # With one thread per core, CPU programs that wait for each other on one machine can deadlock:
  # they occupy the threads of those that they wait for.
  os.environ.setdefault('PJRT_NPROC', '16')
  try:
    jax.distributed.initialize(
      **arguments,
      cluster_detection_method='deactivate',
      initialization_timeout=int(CONNECT_TIMEOUT_SECONDS),
      heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise ConfigError(
      f'the processes met at {address}, but JAX cannot connect them there ({reason}): start the '
      'same command again, or give another port'
    ) from None
  state = distributed.global_state
  if state.num_processes > 1:
    hosts.joined = hosts.Cluster(state.client, state.process_id, state.num_processes)
    shutdown.listen(hosts.joined)
  if not hosts.is_first():
    discard_output(sys.stdout.fileno())
    sys.stderr = _Prefixed(sys.stderr, f'process {hosts.process()}: ')
  hosts.meet_neighbors(platform.node())


def _on_slurm() -> bool:
  """Returns whether srun started this process as one of several.

  JAX would also treat the shell of an allocation as a task and wait for others forever.
  """
  tasks = os.environ.get('SLURM_STEP_NUM_TASKS', os.environ.get('SLURM_NTASKS', '1'))
  if 'SLURM_STEP_NODELIST' not in os.environ:
    return False
  for name in NUMBERS:
    if name in os.environ and not os.environ[name].isdecimal():
      raise ConfigError(
        f'{name}={os.environ[name]!r} in the environment is no number: start the command by srun, '
        'or unset SLURM_STEP_NODELIST to run it alone'
      )
  return int(tasks) > 1


def _from_environment() -> dict[str, Any]:
  """Returns the arguments of jax.distributed.initialize that JAX detects."""
  from jax._src import clusters

  values = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    os.environ.get(ADDRESS), None, None, None, None, int(JOIN_TIMEOUT_SECONDS)
  )
  if None in values[:3]:
    raise ConfigError(
      'this is one of several processes, but not how to reach the others: give all of '
      '--coordinator=HOST:PORT, --processes=N and --process=I'
    )
  return dict(zip((*NAMES, 'local_device_ids'), values, strict=True))


def _on_tpu() -> bool:
  """Returns whether this is a TPU virtual machine, possibly one of a slice."""
  if 'tpu' not in os.environ.get('JAX_PLATFORMS', 'tpu'):
    return False
  from jax._src import clusters  # as jax.distributed does; fast without TPU chips

  return clusters.GkeTpuCluster.is_env_present() or clusters.GceTpuCluster.is_env_present()


def _from_options(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the arguments of jax.distributed.initialize."""
  coordinator = options.coordinator or os.environ.get(ADDRESS)
  if coordinator is None or options.processes is None or options.process is None:
    raise ConfigError(
      f'several processes need all of --coordinator=HOST:PORT (or ${ADDRESS}), --processes=N and '
      '--process=I'
    )
  if not re.fullmatch(r'.+:\d{1,5}', coordinator):
    raise ConfigError(f'--coordinator={coordinator} is not HOST:PORT, e.g. 10.0.0.1:1234')
  if not 0 <= options.process < options.processes:
    raise ConfigError(
      f'--process={options.process} must be one of 0 to N - 1 of --processes={options.processes}'
    )
  return {
    'coordinator_address': coordinator,
    'num_processes': options.processes,
    'process_id': options.process,
  }


class _Prefixed:
  """A text stream that writes a prefix before every line."""

  def __init__(self, stream: Any, prefix: str):
    self._stream, self._prefix, self._begins = stream, prefix, True

  def write(self, text: str) -> int:
    for line in text.splitlines(keepends=True):
      self._stream.write(self._prefix + line if self._begins else line)
      self._begins = line.endswith('\n')
    return len(text)

  def isatty(self) -> bool:
    return False  # progress bars are for the first process

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


CPU = Path('/proc/cpuinfo')
# Lines about instruction sets and models of the cores; not, for example, their clock rates.
CPU_FIELDS = (
  'vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags',  # x86
  'CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part', 'CPU revision', 'Features',
)  # fmt: skip


@contextlib.contextmanager
def quieten_libraries() -> Iterator[None]:
  """Silences libraries below errors meanwhile; VIVIT_LOG=INFO shows their messages again."""
  level = os.environ.get('VIVIT_LOG', 'ERROR')
  loggers = [logging.getLogger(name) for name in ('absl', 'jax', 'orbax', 'grain')]
  before = [logger.level for logger in loggers]
  with warnings.catch_warnings():
    for logger in loggers:
      logger.setLevel(level)
    if level == 'ERROR':
      warnings.filterwarnings('ignore', module='orbax')
    try:
      yield
    finally:
      for logger, old in zip(loggers, before, strict=True):
        logger.setLevel(old)


def keep_compiled_programs() -> None:
  """Caches compiled programs in $VIVIT_CACHE/compiled, by default ~/.cache/vivit_jax/compiled.

  Must be called before anything is computed, since JAX reads the folder only once. A folder that
  the user has set in JAX is kept. A CPU program may use instructions that another machine with the
  same home folder lacks, and JAX's file names do not distinguish that. So each kind of CPU has its
  own folder, and nothing is cached if the kind is unknown.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
    return
  folder = cache_folder('compiled')
  if jax.default_backend() == 'cpu':
    kind = kind_of_cpu()
    if kind is None:
      return
    folder /= f'cpu-{kind}'
  jax.config.update('jax_compilation_cache_dir', str(folder))


def kind_of_cpu(cpuinfo: Path = CPU) -> str | None:
  """Returns a digest of this machine's CPU models and features, or None if they are unknown.

  Args:
    cpuinfo: file in the format of /proc/cpuinfo.
  """
  try:
    lines = cpuinfo.read_text(errors='replace').splitlines()
  except OSError:
    return None
  facts = {line for line in lines if line.partition(':')[0].strip() in CPU_FIELDS}
  if not any(line.startswith(('flags', 'Features')) for line in facts):
    return None
  # The set over all cores, so that a machine with two kinds of core differs from both.
  text = '\n'.join([platform.machine(), *sorted(facts)])
  return hashlib.sha256(text.encode()).hexdigest()[:16]
