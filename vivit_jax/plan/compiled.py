# SPDX-License-Identifier: Apache-2.0
"""What a training step needs on each TPU, by compiling it ahead of time in a process of its own."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from vivit_jax.config import Config
from vivit_jax.config_parse import to_dict
from vivit_jax.errors import ConfigError

# Elsewhere libtpu takes the machine for a part of a pod and asks a server that is not there.
ALONE = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles for one topology.

  Attributes:
    topology: as libtpu names it, e.g. v5e:8x8.
    seconds: after which a compilation is given up.
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
    """Returns bytes of each device by what they are for, or none and why it does not fit.

    Raises:
      ConfigError: where the experiment is impossible on these devices.
      RuntimeError: where the compiler failed otherwise.
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
