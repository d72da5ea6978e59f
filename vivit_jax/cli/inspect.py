# SPDX-License-Identifier: Apache-2.0
"""`vivit inspect`: shows a config or a checkpoint."""

import argparse

from vivit_jax.cli.options import CHECKPOINT, CONFIG_HELP, add_command, add_facts, facts, use_cpu
from vivit_jax.errors import ConfigError

HELP = """
examples:
  vivit inspect --config=kinetics400:B/16x2,factorised_encoder --json
  vivit inspect --config=kinetics400:H/14x2 --config.mesh.fsdp=8 --devices=64
  vivit inspect runs/digits
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'inspect',
    run,
    summary='show a config or a checkpoint: tokens, parameters, cost, memory',
    description=(
      'Shows the model and cost of a config, without data, parameters, compiler or accelerator;\n'
      'or the content of a checkpoint of any format.'
    ),
    usage=(
      '(--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] [--devices=N] | CHECKPOINT) '
      '[--json]'
    ),
    epilog=CONFIG_HELP + HELP,
  )
  command.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help=CHECKPOINT)
  command.add_argument(
    '--devices', type=int, metavar='N', help='number of devices (default: by config.mesh)'
  )
  command.add_argument('--json', action='store_true', help='print the same as JSON')
  add_facts(command)


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  use_cpu()
  from vivit_jax.config.file import load
  from vivit_jax.data.splits import with_classes
  from vivit_jax.plan.summary import as_json, as_text, summarise, summarise_checkpoint
  from vivit_jax.weights.architecture import with_architecture

  if bool(options.checkpoint) == bool(options.settings):
    raise ConfigError('give either --config=FILE or a CHECKPOINT to inspect')
  if options.checkpoint and options.devices is not None:
    raise ConfigError(f'--devices={options.devices} is only for --config=FILE, which has the mesh')
  if options.checkpoint:
    from vivit_jax.weights.pretrained import load_pretrained

    summary = summarise_checkpoint(load_pretrained(options.checkpoint, **facts(options)).source)
  else:
    config = with_architecture(load(options.settings))
    if config.data.root is not None or config.data.source != 'manifests':
      config = with_classes(config)  # unknown without data
    summary = summarise(config, options.devices)
  print(as_json(summary) if options.json else as_text(summary))
  return 0
