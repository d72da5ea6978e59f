# SPDX-License-Identifier: Apache-2.0
"""Recommended XLA flags for accelerators, with their sources; flags set by the user win.

XLA's own defaults are not repeated. docs/scale.md has the same list for users.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

NVIDIA = Path('/proc/driver/nvidia')  # exists if the driver is installed


@dataclasses.dataclass(frozen=True)
class Flags:
  """Flags for one environment variable.

  Attributes:
    variable: the environment variable, which the compiler reads once, when JAX starts.
    values: values by flag name.
    source: where the flags are recommended.
    wanted: returns whether the machine has such a device.
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
  # Overlap all-gathers and reductions with computation; in a scan, with the next layer's.
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
  """Adds the flags to the environment; call before JAX initializes its devices.

  A flag that the user has set keeps the user's value. With JAX_PLATFORMS=cpu, nothing is set.
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
