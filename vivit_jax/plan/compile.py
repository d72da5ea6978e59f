# SPDX-License-Identifier: Apache-2.0
"""Compiles a training step for devices that this machine may not have; a separate program.

    python -m vivit_jax.plan.compile v5e:8x8 < config.json

It prints the memory per device as JSON. It is a program because libtpu can start only once per
process, writes to the terminal, and must be killed if it takes too long.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.schema import Config
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.errors import ConfigError
from vivit_jax.plan.memory import lower_step
from vivit_jax.plan.targets import check_compiler, devices, reason

# Without a device there is no autotuning, and untuned Triton products are slower than cuBLAS.
OPTIONS = {'gpu': {'xla_gpu_enable_triton_gemm': False}}


def compile_for(topology: str, tree: dict[str, Any]) -> dict[str, Any]:
  """Returns `sizes`, the bytes per device by purpose, or `refused`, why the step does not fit.

  Args:
    topology: topology in libtpu's notation, e.g. v5e:8x8, or h100:8.
    tree: the config as nested dicts.

  Raises:
    ConfigError: the topology does not exist, or the config is impossible on it.
  """
  found, config = devices(topology), parse(tree)
  try:
    stats = compile_step_for(config, found).memory_analysis()
  except MemoryError as error:
    return {'refused': str(error)}
  sizes = {
    'state and batch': stats.argument_size_in_bytes,
    'results': stats.output_size_in_bytes - stats.alias_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'program': stats.generated_code_size_in_bytes,
  }
  return {'sizes': sizes}


def compile_step_for(config: Config, found: list[Any]) -> Any:
  """Returns the training step, compiled for devices that this machine may not have.

  Raises:
    ConfigError: it cannot be compiled for them; names the operation.
    MemoryError: its temporaries exceed the memory of a device.
  """
  try:
    return lower_step(config, make_mesh(config, found)).compile(OPTIONS.get(found[0].platform))
  except JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' in str(error):
      raise MemoryError(reason(error)) from None
    raise ConfigError(f'{_refusal(found)}: {reason(error)}') from error
  except NotImplementedError as error:
    raise ConfigError(f'{_refusal(found)}: {reason(error)}') from error


def _refusal(found: list[Any]) -> str:
  return f'the step does not compile for {found[0].device_kind}'


# Without these, libtpu believes that it runs on a TPU host and asks a server that is not there.
ALONE = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles for one topology.

  Attributes:
    topology: topology in libtpu's notation, e.g. v5e:8x8, or h100:8.
    seconds: time limit of a compilation.
  """

  topology: str
  seconds: float

  def __post_init__(self):
    check_compiler(self.topology)

  def __call__(self, config: Config) -> tuple[dict[str, int], str]:
    """Returns bytes per device by purpose, or an empty dict and why the step does not fit.

    Raises:
      ConfigError: the config is impossible on these devices, or compilation takes too long.
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
        '--config.model.scan=True, which compiles faster'
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
