# SPDX-License-Identifier: Apache-2.0
"""XLA's flags for runs on accelerators, unless the user says otherwise, and their sources.

What XLA does by itself is not repeated. docs/scale.md has the same list for users.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

NVIDIA = Path('/proc/driver/nvidia')  # is there where the driver is


@dataclasses.dataclass(frozen=True)
class Flags:
  """What one environment variable is given.

  Attributes:
    variable: that the compiler reads once, when JAX starts.
    values: by the flag's name.
    source: where they are recommended.
    wanted: whether there is such a device.
  """

  variable: str
  values: dict[str, str]
  source: str
  wanted: Callable[[], bool]


def _has_gpu() -> bool:
  return NVIDIA.exists()


def _has_tpu() -> bool:
  return importlib.util.find_spec('libtpu') is not None


RECOMMENDED = (
  # Sums and gathers of parameters go on while products are computed, in a scan those of the next
  # layer.
  Flags(
    'XLA_FLAGS',
    {
      'xla_gpu_enable_latency_hiding_scheduler': 'true',
      'xla_gpu_enable_pipelined_all_gather': 'true',
      'xla_gpu_enable_pipelined_reduce_scatter': 'true',
      'xla_gpu_enable_pipelined_all_reduce': 'true',
    },
    'docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance',
    _has_gpu,
  ),
  Flags(
    'LIBTPU_INIT_ARGS',
    {
      'xla_should_allow_loop_variant_parameter_in_chain': 'ENABLED',
      'xla_should_add_loop_invariant_op_in_chain': 'ENABLED',
      'xla_tpu_enable_ici_ag_pipelining': 'true',
    },
    'openxla.org/xla/flags_guidance',
    _has_tpu,
  ),
)


def set_recommended() -> None:
  """Adds the flags to the environment; must be called before JAX starts its devices.

  A flag that the user's own variable names keeps the user's value. Where JAX is kept to CPUs
  (JAX_PLATFORMS=cpu), nothing is set.
  """
  if os.environ.get('JAX_PLATFORMS') == 'cpu':
    return
  for flags in RECOMMENDED:
    if not flags.wanted():
      continue
    own = os.environ.get(flags.variable, '').split()
    named = {word.lstrip('-').partition('=')[0] for word in own}
    new = [f'--{name}={value}' for name, value in flags.values.items() if name not in named]
    os.environ[flags.variable] = ' '.join([*new, *own])
