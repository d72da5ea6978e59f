# SPDX-License-Identifier: Apache-2.0
"""`vivit plan`: checks whether a training step fits into memory, before anything runs."""

import argparse
import sys
from typing import TYPE_CHECKING

from vivit_jax.cli.options import add_command, use_cpu
from vivit_jax.errors import ConfigError
from vivit_jax.plan.targets import H100_MEMORY

if TYPE_CHECKING:
  from vivit_jax.plan.compile import Compiler

HELP = """
For TPUs and --device=h100, the real step is compiled, which takes minutes but needs no device
(install vivit_jax[plan]; without it, the memory on an H100 is estimated). For other GPUs it is
estimated. If the step does not fit, changes are tried from cheap to costly: bfloat16, fsdp,
accumulation, rematerialization, context. The table shows the memory with each.

examples:
  vivit plan --config=kinetics400:L/16x2,factorised_encoder --topology=v5e:8x8
  vivit plan --config=kinetics400:L/16x2,factorised_encoder --device=h100 --devices=8
  vivit plan --config=kinetics400:H/14x2 --device-memory=40GB --devices=8
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'plan',
    run,
    summary='check whether training fits into device memory, before anything runs',
    description=(
      'Checks whether a training step fits into the memory of devices that this machine may not\n'
      'have, and if not, which changes make it fit. Exit code 1 if none does.'
    ),
    usage=(
      '--config=FILE[:VARIANT] [--config.x=y ...] (--topology=v5e:8x8 |'
      ' (--device=h100 | --device-memory=80GB) --devices=8) [--json]'
    ),
    epilog=HELP,
  )
  command.add_argument('--topology', metavar='NAME:SHAPE', help='TPUs, e.g. v5e:8x8 or v6e:4x4')
  command.add_argument('--device', metavar='NAME', help='GPU to compile for: h100')
  command.add_argument('--device-memory', metavar='SIZE', help='memory of each GPU, e.g. 80GB')
  command.add_argument('--devices', type=int, metavar='N', help='number of GPUs')
  command.add_argument(
    '--seconds', type=float, default=900.0, metavar='S', help='time limit per compilation (900)'
  )
  command.add_argument('--json', action='store_true', help='print the same as JSON')


def run(options: argparse.Namespace) -> int:
  """Runs the command; returns 1 if nothing makes the step fit."""
  use_cpu()
  from vivit_jax.config.file import load
  from vivit_jax.plan import report
  from vivit_jax.plan.search import GPU_SHARE, search
  from vivit_jax.weights.architecture import resolved

  devices, memory = _devices(options)
  config = resolved(load(options.settings))
  topology = options.topology or (options.device and f'{options.device}:{devices}')
  compiler = _compiler(topology, options) if topology else None
  available = memory if options.topology else int(GPU_SHARE * memory)
  trials = search(config, devices, available, compiler, 'tpu' if options.topology else 'gpu')
  if options.json:
    print(report.as_json(trials, available))
  else:
    print(report.as_text(config, devices, trials, available))
  return 0 if any(trial.fits for trial in trials) else 1


def _compiler(topology: str, options: argparse.Namespace) -> 'Compiler | None':
  """Returns the compiler for a topology, or None for a GPU whose compiler is not installed."""
  from vivit_jax.plan.compile import Compiler

  try:
    return Compiler(topology, options.seconds)
  except ConfigError as error:
    if options.topology:
      raise
    print(f'vivit: {error}; using an estimate instead', file=sys.stderr)
    return None


def _devices(options: argparse.Namespace) -> tuple[int, int]:
  """Returns the number of devices and the bytes of each."""
  from vivit_jax.plan.search import parse_memory, parse_topology

  size = (options.device, options.device_memory)
  if options.topology and (*size, options.devices) == (None, None, None):
    return parse_topology(options.topology)
  if options.topology or size.count(None) != 1 or options.devices is None:
    raise ConfigError(
      'give either --topology=v5e:8x8, or --devices=8 with --device=h100 or --device-memory=80GB'
    )
  if options.devices < 1:
    raise ConfigError(f'--devices={options.devices} is not a number of GPUs')
  if options.device is None:
    return options.devices, parse_memory(options.device_memory)
  if options.device != 'h100':
    raise ConfigError(
      f'--device={options.device} is not known, only h100: for an estimate give e.g. '
      '--device-memory=80GB'
    )
  return options.devices, H100_MEMORY
