# SPDX-License-Identifier: Apache-2.0
"""Devices to plan for, as they are written on the command line."""

import math
import re

from vivit_jax.errors import ConfigError

# GiB of each TPU by the name of its generation (the "system architecture" pages of
# cloud.google.com/tpu/docs). The compiler keeps a little of it, and has the last word.
HBM = {'v5e': 16, 'v5p': 95, 'v6e': 32}

# What JAX takes of a GPU's memory where XLA_PYTHON_CLIENT_MEM_FRACTION does not say otherwise
# (docs.jax.dev/en/latest/gpu_memory_allocation.html).
GPU_SHARE = 0.75

UNITS = {'MB': 10**6, 'GB': 10**9, 'MiB': 2**20, 'GiB': 2**30}


def parse_topology(text: str) -> tuple[int, int]:
  """Returns the number of TPUs and the bytes of each from e.g. `v5e:8x8`."""
  name, _, shape = text.partition(':')
  if name not in HBM or re.fullmatch(r'[1-9]\d*(x[1-9]\d*){1,2}', shape) is None:
    raise ConfigError(
      f'--topology={text} is no GENERATION:SHAPE, e.g. v5e:8x8; generations are {", ".join(HBM)}'
    )
  return math.prod(int(size) for size in shape.split('x')), HBM[name] * 2**30


def parse_memory(text: str) -> int:
  """Returns bytes from e.g. `80GB` or `24GiB`."""
  match = re.fullmatch(r'(\d+(?:\.\d+)?)(MB|GB|MiB|GiB)', text)
  if match is None or not float(match[1]):
    raise ConfigError(f'--device-memory={text} is no size: give e.g. 80GB or 24GiB')
  return int(float(match[1]) * UNITS[match[2]])
