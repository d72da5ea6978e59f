# SPDX-License-Identifier: Apache-2.0
"""Compiles a training step for TPUs that need not be there; a program of its own.

    python -m vivit_jax.plan.compile v5e:8x8 < config.json

It prints what each device would need, as JSON. Not a function, since libtpu starts once in a
process, writes to its terminal, and has to be ended where it takes too long.
"""

import json
import re
import sys
from typing import Any

from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from vivit_jax.config_parse import parse
from vivit_jax.errors import ConfigError
from vivit_jax.plan.abstract import lower_step
from vivit_jax.sharding import make_mesh


def compile_for(topology: str, tree: dict[str, Any]) -> dict[str, Any]:
  """Returns `sizes`, bytes of each device by what they are for, or why it does not fit: `refused`.

  Args:
    topology: as libtpu names it, e.g. v5e:8x8.
    tree: of the configuration.

  Raises:
    ConfigError: where there is no such topology, or the experiment is impossible on it.
    JaxRuntimeError: where the step cannot be compiled for another reason than memory.
  """
  try:
    devices = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  except JaxRuntimeError as error:
    raise ConfigError(f'--topology={topology}: {_reason(error)}') from None
  config = parse(tree)
  lowered = lower_step(config, make_mesh(config, list(devices)))
  try:
    stats = lowered.compile().memory_analysis()
  except JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      return {'refused': _reason(error)}
    raise
  sizes = {
    'state and batch': stats.argument_size_in_bytes,
    'results': stats.output_size_in_bytes - stats.alias_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'program': stats.generated_code_size_in_bytes,
  }
  return {'sizes': sizes}


def _reason(error: Exception) -> str:
  return re.sub(r'^[A-Z_]+: ', '', str(error).splitlines()[0]).rstrip('. ')


if __name__ == '__main__':
  try:
    print(json.dumps(compile_for(sys.argv[1], json.load(sys.stdin))))
  except ConfigError as error:
    print(json.dumps({'error': str(error)}))
