# SPDX-License-Identifier: Apache-2.0
"""Startup of a process in a multi-process run, and JAX's cache of compiled programs."""

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

JOIN_TIMEOUT_SECONDS = 300.0  # for all processes to start
CONNECT_TIMEOUT_SECONDS = 60.0  # for JAX to connect the started processes
NAMES = ('coordinator_address', 'num_processes', 'process_id')
NUMBERS = (
  'SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_JOB_ID',
)  # fmt: skip
ADDRESS = 'JAX_COORDINATOR_ADDRESS'  # JAX's own name for --coordinator

HELP = """\
For runs of several processes, on one or more hosts: start the same command in each process. With
srun (SLURM, several tasks) and on a TPU pod slice, JAX detects these values from the environment
and the options are not needed. Otherwise a command without them runs as a single process."""


def add_launch(parser: argparse.ArgumentParser) -> None:
  """Adds the options that `start` reads."""
  group = parser.add_argument_group('several hosts', HELP)
  group.add_argument('--coordinator', metavar='HOST:PORT', help=f'process 0 (${ADDRESS})')
  group.add_argument('--processes', type=int, metavar='N', help='number of processes')
  group.add_argument('--process', type=int, metavar='I', help='number of this process, 0 to N - 1')


def start(options: argparse.Namespace, heartbeat_timeout_seconds: int) -> None:
  """Joins the other processes of the run, if any; call before JAX initializes its devices.

  First sets the recommended XLA flags, see `flags`. Afterwards all processes except process 0
  print only errors, with the process number before each line.

  Args:
    options: parsed options of `add_launch`.
    heartbeat_timeout_seconds: a process silent for this long counts as lost; the others then end.

  Raises:
    ConfigError: the options are invalid, or other processes do not connect.
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

  # With one thread per core, CPU programs of several processes on one machine can deadlock: a
  # waiting program occupies the threads of the program that it waits for.
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
      f'all processes reached {address}, but JAX cannot connect them ({reason}): start the '
      'same command again or give another port'
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
  """Returns whether srun started this process as one of several tasks.

  JAX would also treat an interactive shell in an allocation as a task, and wait forever.
  """
  tasks = os.environ.get('SLURM_STEP_NUM_TASKS', os.environ.get('SLURM_NTASKS', '1'))
  if 'SLURM_STEP_NODELIST' not in os.environ:
    return False
  for name in NUMBERS:
    if name in os.environ and not os.environ[name].isdecimal():
      raise ConfigError(
        f'{name}={os.environ[name]!r} in the environment is not a number: start the command '
        'with srun, or unset SLURM_STEP_NODELIST to run a single process'
      )
  return int(tasks) > 1


def _from_environment() -> dict[str, Any]:
  """Returns the arguments of jax.distributed.initialize as JAX detects them."""
  from jax._src import clusters

  values = clusters.ClusterEnv.auto_detect_unset_distributed_params(
    os.environ.get(ADDRESS), None, None, None, None, int(JOIN_TIMEOUT_SECONDS)
  )
  if None in values[:3]:
    raise ConfigError(
      'the environment has several processes, but not the address of process 0: give all of '
      '--coordinator=HOST:PORT, --processes=N and --process=I'
    )
  return dict(zip((*NAMES, 'local_device_ids'), values, strict=True))


def _on_tpu() -> bool:
  """Returns whether this is a TPU VM, possibly one of a pod slice."""
  if 'tpu' not in os.environ.get('JAX_PLATFORMS', 'tpu'):
    return False
  from jax._src import clusters  # same check as jax.distributed; fast without TPUs

  return clusters.GkeTpuCluster.is_env_present() or clusters.GceTpuCluster.is_env_present()


def _from_options(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the arguments of jax.distributed.initialize as given on the command line."""
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
      f'--process={options.process} must be from 0 to N - 1 for --processes={options.processes}'
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
# Lines of /proc/cpuinfo with the CPU model and instruction sets; not e.g. the clock rate.
CPU_FIELDS = (
  'vendor_id', 'cpu family', 'model', 'model name', 'stepping', 'flags',  # x86
  'CPU implementer', 'CPU architecture', 'CPU variant', 'CPU part', 'CPU revision', 'Features',
)  # fmt: skip


@contextlib.contextmanager
def quieten_libraries() -> Iterator[None]:
  """Hides library messages below the level of errors; VIVIT_LOG=INFO shows them."""
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

  Call before the first computation, since JAX reads the folder only once. A folder that the user
  has configured in JAX is kept. A CPU program may use instructions that another machine with the
  same home folder lacks, and JAX's cache keys do not include the CPU. Each CPU kind therefore has
  its own folder; if the kind is unknown, nothing is cached.
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
  """Returns a digest of this machine's CPU models and features, or None if unknown.

  Args:
    cpuinfo: a file in the format of /proc/cpuinfo.
  """
  try:
    lines = cpuinfo.read_text(errors='replace').splitlines()
  except OSError:
    return None
  facts = {line for line in lines if line.partition(':')[0].strip() in CPU_FIELDS}
  if not any(line.startswith(('flags', 'Features')) for line in facts):
    return None
  # The union over all cores: a machine with two kinds of cores has its own digest.
  text = '\n'.join([platform.machine(), *sorted(facts)])
  return hashlib.sha256(text.encode()).hexdigest()[:16]
