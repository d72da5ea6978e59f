# SPDX-License-Identifier: Apache-2.0
"""Accelerators for which a step can be compiled without having one, and their peak rates."""

import dataclasses
import fnmatch
import importlib.metadata
import re
from typing import Any

from vivit_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Target:
  """One type of accelerator.

  Attributes:
    flops: peak FLOP/s of bfloat16 matrix products.
    bandwidth: memory bandwidth in bytes/s.
    clock: clock rate in Hz for the compiler's cycle counts; None if it has none.
    smallest: smallest topology; a program may use fewer devices of it.
  """

  flops: float
  bandwidth: float
  clock: float | None = None
  smallest: str = ''


# H100: measured with large products and copies; the data sheet has 989 TFLOP/s and 3.35 TB/s. TPUs:
# cloud.google.com/tpu/docs/system-architecture-tpu-vm; the clock is the peak divided by the number
# of multipliers (4, 8 and 16 arrays of 128 x 128).
TARGETS = {
  'h100': Target(800e12, 3.0e12),
  'v5e': Target(197e12, 819e9, 1.5e9, '2x2'),
  'v5p': Target(459e12, 2765e9, 1.75e9, '2x2x1'),
  'v6e': Target(918e12, 1640e9, 1.75e9, '2x2'),
}

# Assumed FLOP/s of cuDNN's attention at head dimension 64, forward and backward: in the range of
# the kernels compared in FlashAttention-3, arXiv 2407.08608, section 4.
ATTENTION_FLOPS = {False: 500e12, True: 400e12}

# Package of each compiler, in addition to jax.
PACKAGES = {'cuda': 'jax-cuda13-plugin', 'tpu': 'libtpu'}

# XLA's own description of the device, in its text form (stream_executor/device_description.proto).
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
H100_MEMORY = int(re.search(r'memory_size: (\d+)', _H100)[1])  # type: ignore[index]

HOST = 8  # GPUs per host


def platform(topology: str) -> str:
  """Returns the compiler for a topology such as v5e:2x4 or h100:8: `tpu` or `cuda`."""
  return 'cuda' if topology.startswith('h100') else 'tpu'


def check_compiler(topology: str) -> None:
  """Checks that the compiler for a topology is installed in the version that jax needs.

  Raises:
    ConfigError: names the package, its version and the remedy.
  """
  package = PACKAGES[platform(topology)]
  remedy = "pip install 'vivit_jax[plan]'"
  try:
    found = importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    raise ConfigError(
      f'{topology} needs the compiler in {package}, which runs without a device: {remedy}'
    ) from None
  wanted = next(r for r in importlib.metadata.requires('jax') or () if r.startswith(package))
  version = re.search(r'(?:==|<=)([\w.*]+)', wanted)
  if version and not fnmatch.fnmatch(found, version[1]):
    raise ConfigError(
      f'{topology}: {package} {found} does not match jax, which needs {version[1]}: {remedy}'
    )


def devices(topology: str) -> list[Any]:
  """Returns the devices of a topology, which this machine may not have.

  Args:
    topology: topology in libtpu's notation, e.g. v5e:8x8, or h100:N.

  Raises:
    ConfigError: where there is no such topology.
  """
  from jax.errors import JaxRuntimeError
  from jax.experimental import topologies

  if platform(topology) == 'tpu':
    try:
      return list(topologies.get_topology_desc(platform='tpu', topology_name=topology).devices)
    except JaxRuntimeError as error:
      raise ConfigError(f'--topology={topology}: {reason(error)}') from None
  count = int(topology.partition(':')[2])
  hosts, each = (count // HOST, HOST) if count % HOST == 0 else (1, count)
  return list(
    topologies.get_topology_desc(
      platform='cuda', topology_name='', topology=f'1x{hosts}x{each}', target_config=_H100
    ).devices
  )


def reason(error: Exception) -> str:
  """Returns the first line of what a compiler says, without its kind of error."""
  return re.sub(r'^[A-Z_]+: ', '', str(error).splitlines()[0]).rstrip('. ')
