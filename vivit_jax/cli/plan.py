# SPDX-License-Identifier: Apache-2.0
"""`vivit plan`: whether a training step fits, before anything runs."""

import argparse

from vivit_jax.cli.options import add_command, use_cpu
from vivit_jax.errors import ConfigError

HELP = """
For TPUs the step is compiled as it will be, which takes minutes, but needs no TPU (install
vivit_jax[plan]). For GPUs it is estimated. Where it does not fit, changes are tried from cheap to
dear: bfloat16, fsdp, accumulation, rematerialisation, context; the table shows what each needs.

examples:
  vivit plan --config=configs/kinetics400.py:L/16x2,factorised_encoder --topology=v5e:8x8
  vivit plan --config=configs/kinetics400.py:H/14x2 --device-memory=80GB --devices=8
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'plan',
    run,
    summary='say whether training fits into the memory of devices, before anything runs',
    description=(
      'Says whether a training step fits into the memory of devices that need not be there, and\n'
      'if not, what makes it fit. Exit code 1 if nothing does.'
    ),
    usage=(
      '--config=FILE[:VARIANT] [--config.x=y ...] (--topology=v5e:8x8 | --device-memory=80GB'
      ' --devices=8) [--json]'
    ),
    epilog=HELP,
  )
  command.add_argument('--topology', metavar='NAME:SHAPE', help='of TPUs, e.g. v5e:8x8 or v6e:4x4')
  command.add_argument('--device-memory', metavar='SIZE', help='of each GPU, e.g. 80GB')
  command.add_argument('--devices', type=int, metavar='N', help='number of GPUs')
  command.add_argument(
    '--seconds', type=float, default=900.0, metavar='S', help='to compile one step at most (900)'
  )
  command.add_argument('--json', action='store_true', help='print the same as JSON')


def run(options: argparse.Namespace) -> int:
  """Runs the command; 1 where nothing makes the step fit."""
  use_cpu()
  from vivit_jax.config.file import load
  from vivit_jax.data.splits import with_classes
  from vivit_jax.plan import report
  from vivit_jax.plan.compile import Compiler
  from vivit_jax.plan.search import GPU_SHARE, search

  devices, memory = _devices(options)
  config = with_classes(load(options.settings))
  compiler = Compiler(options.topology, options.seconds) if options.topology else None
  available = memory if compiler else int(GPU_SHARE * memory)
  trials = search(config, devices, available, compiler)
  if options.json:
    print(report.as_json(trials, available))
  else:
    print(report.as_text(config, devices, trials, available))
  return 0 if any(trial.fits for trial in trials) else 1


def _devices(options: argparse.Namespace) -> tuple[int, int]:
  """Returns the number of devices and the bytes of each."""
  from vivit_jax.plan.search import parse_memory, parse_topology

  gpus = (options.device_memory, options.devices)
  if options.topology and gpus == (None, None):
    return parse_topology(options.topology)
  if options.topology or None in gpus:
    raise ConfigError('give either --topology=v5e:8x8 or --device-memory=80GB --devices=8')
  if options.devices < 1:
    raise ConfigError(f'--devices={options.devices} is no number of GPUs')
  return options.devices, parse_memory(options.device_memory)
