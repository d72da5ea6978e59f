# SPDX-License-Identifier: Apache-2.0
"""How a process learns that it is one of several, and joins the others.

JAX's cache of compiled programs, from which a second start of the same command is quick.
"""

import argparse
import hashlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from vivit_jax.distributed import hosts, meeting, shutdown
from vivit_jax.errors import ConfigError
from vivit_jax.files import cache_folder

JOIN_TIMEOUT_SECONDS = 300.0  # seconds in which all processes must have started
CONNECT_TIMEOUT_SECONDS = 60.0  # seconds for JAX to connect them, once they are there
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
  """Declares the options that `start` takes."""
  group = parser.add_argument_group('several hosts', HELP)
  group.add_argument('--coordinator', metavar='HOST:PORT', help=f'of process 0 (${ADDRESS})')
  group.add_argument('--processes', type=int, metavar='N', help='how many there are')
  group.add_argument('--process', type=int, metavar='I', help="this one's number, 0 to N - 1")


def start(options: argparse.Namespace, heartbeat_timeout_seconds: int) -> None:
  """Joins the other processes, if there are any, before JAX is asked for devices.

  From then on all but the first print nothing but errors, their number before each line.

  Args:
    options: of `add_launch`.
    heartbeat_timeout_seconds: a process that was silent for longer is lost, and the others end.

  Raises:
    ConfigError: options that cannot be used, or nobody answers.
  """
  said = any(x is not None for x in (options.coordinator, options.processes, options.process))
  found = not said and (_on_slurm() or _on_tpu())
  if said or (not found and ADDRESS in os.environ):
    arguments = _from_options(options)
  elif found:
    arguments = _from_surroundings()
  else:
    return
  address, processes, process = (arguments[name] for name in NAMES)
  if processes == 1:
    return
  meeting.meet(address, processes, process, JOIN_TIMEOUT_SECONDS)
  import jax
  from jax._src import distributed  # its store of keys and values has no public name

  # With as few threads as cores, programs that wait for each other on the CPUs of one machine keep
  # those that they wait for from starting.
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
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())  # libraries in C++ too
    os.close(silence)
    sys.stderr = _Prefixed(sys.stderr, f'process {hosts.process()}: ')


def _on_slurm() -> bool:
  """Returns whether srun started this process as one of several.

  JAX would also take the shell of an allocation for a task, and wait for others for ever.
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


def _from_surroundings() -> dict[str, Any]:
  """Returns the arguments of jax.distributed.initialize that JAX itself would find."""
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
  """Returns whether this is a TPU virtual machine, which may be one of a slice."""
  if 'tpu' not in os.environ.get('JAX_PLATFORMS', 'tpu'):
    return False
  from jax._src import clusters  # what jax.distributed asks; without TPU chips it answers at once

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
  """A text stream that begins every line with the same words."""

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
