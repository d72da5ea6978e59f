# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step on each TPU, by compiling it for TPUs that need not be there.

    python -m vivit_jax.plan.compile v5e:8x8 < config.json

prints it as JSON. The compilation is a process of its own, since libtpu starts only once in a
process, writes to the terminal, and has to be killed if it takes too long.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.schema import Config
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.errors import ConfigError
from vivit_jax.plan.memory import lower_step


def compile_for(topology: str, tree: dict[str, Any]) -> dict[str, Any]:
  """Returns `sizes`, bytes of each device by purpose, or why the step does not fit: `refused`.

  Args:
    topology: as libtpu names it, e.g. v5e:8x8.
    tree: of the configuration.

  Raises:
    ConfigError: there is no such topology, or the experiment is impossible on it.
    JaxRuntimeError: the step cannot be compiled for a reason other than memory.
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


# Without these, libtpu believes that it runs on a TPU host and asks a server that is not there.
ALONE = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles for one topology.

  Attributes:
    topology: as libtpu names it, e.g. v5e:8x8.
    seconds: after which a compilation is killed.
  """

  topology: str
  seconds: float

  def __post_init__(self):
    if importlib.util.find_spec('libtpu') is None:
      raise ConfigError(
        f"--topology={self.topology} needs Google's compiler for TPUs, which runs without one: "
        "pip install 'vivit_jax[plan]'"
      )

  def __call__(self, config: Config) -> tuple[dict[str, int], str]:
    """Returns bytes of each device by purpose, or none and why the step does not fit.

    Raises:
      ConfigError: the experiment is impossible on these devices, or compiling takes too long.
      RuntimeError: the compiler failed otherwise.
    """
    paths = [str(Path(__file__).parents[2]), *sys.path[1:]]
    try:
      done = subprocess.run(
        [sys.executable, '-m', 'vivit_jax.plan.compile', self.topology],
        input=json.dumps(to_dict(config)),
        env={**os.environ, **ALONE, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=self.seconds,
        check=False,
      )
    except subprocess.TimeoutExpired:
      raise ConfigError(
        f'not compiled within {self.seconds:.0f} s: give more --seconds, or '
        '--config.model.scan=True, which takes less time to compile'
      ) from None
    if done.returncode:
      raise RuntimeError(f'the compiler ended with code {done.returncode}:\n{done.stderr}')
    result = json.loads(done.stdout.splitlines()[-1])
    if 'error' in result:
      raise ConfigError(result['error'])
    return result.get('sizes', {}), result.get('refused', '')


if __name__ == '__main__':
  try:
    print(json.dumps(compile_for(sys.argv[1], json.load(sys.stdin))))
  except ConfigError as error:
    print(json.dumps({'error': str(error)}))
