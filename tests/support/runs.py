# SPDX-License-Identifier: Apache-2.0
"""Tiny runs of the command: settings, processes, and what a workdir holds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.config.file import load
from vivit_jax.config.schema import Config
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.model.vivit import build
from vivit_jax.train.log import read_metrics
from vivit_jax.train.optimizer import make_optimizer, total_steps
from vivit_jax.train.state import TrainState, abstract_state

ROOT = Path(__file__).parent.parent.parent
CONFIG = 'configs/moving_digits.py'
TINY = {
  'data.workers': 0,  # processes take longer to start than such a run to end
  'data.moving_digits.train_videos': 64,
  'data.moving_digits.validation_videos': 12,
  'data.moving_digits.test_videos': 21,  # no batch divides it
  'model.layers': 1,
  'model.temporal_layers': 1,
  'model.width': 16,
  'model.mlp_dim': 32,
  'model.heads': 2,
  'model.dropout': 0.1,  # so that a generator that goes on differently shows
  'model.drop_path': 0.2,
  'clip.frames': 4,
  'clip.height': 32,
  'clip.width': 32,
  'train.batch_size': 8,
  'train.steps': 24,
  'train.log_every': 3,
  'train.evaluate_every': 12,
  'train.checkpoint_every': 4,
  'evaluate.batch_size': 8,
  'evaluate.temporal_views': 2,
}
TIMES = ('seconds_', 'clips_per_second', 'data_wait')  # what a log has that differs between runs


def settings(config: str = CONFIG, **overrides: Any) -> list[str]:
  """Returns the arguments of a tiny run; `data__workers=2` overrides data.workers."""
  values = {**TINY, **{name.replace('__', '.'): value for name, value in overrides.items()}}
  return [f'--config={config}', *(f'--config.{name}={value}' for name, value in values.items())]


def tiny(config: str = CONFIG, **overrides: Any) -> Config:
  """Returns the configuration of the same."""
  return load(settings(str(ROOT / config), **overrides))


def environment(**variables: str) -> dict[str, str]:
  """Returns that of a user with one CPU device, except that programs are compiled once."""
  cache = Path(os.environ['VIVIT_CACHE']).parent
  return {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0',
    'JAX_COMPILATION_CACHE_DIR': str(cache / 'jax'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **variables,
  }


def start(*arguments: str, program: str | None = None, **variables: str) -> subprocess.Popen:
  """Starts `python -m vivit_jax`, or a program instead, in a process group of its own."""
  return subprocess.Popen(
    [sys.executable, *(('-m', 'vivit_jax') if program is None else ('-c', program)), *arguments],
    cwd=ROOT,
    env=environment(**variables),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


def command(
  *arguments: str, program: str | None = None, **variables: str
) -> subprocess.CompletedProcess:
  """Runs `python -m vivit_jax`, or a program instead, to its end."""
  process = start(*arguments, program=program, **variables)
  out, err = process.communicate(timeout=300)
  return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def saved_state(config: Config, workdir: Path, step: int | None = None) -> TrainState:
  """Returns a whole state from disk, by default the newest."""
  mesh = make_mesh(None, jax.devices()[:1])
  optimizer = make_optimizer(config.train, total_steps(config, 64))
  place = jax.sharding.SingleDeviceSharding(mesh.devices.item())
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract_state(config, build(config), optimizer),
  )
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.restore(step or checkpoints.steps[-1], abstract)


def rows(workdir: Path) -> list[dict]:
  """Returns what a run logged, but for times."""
  return [
    {name: value for name, value in row.items() if not name.startswith(TIMES)}
    for row in read_metrics(workdir)
  ]
