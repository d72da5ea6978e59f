# SPDX-License-Identifier: Apache-2.0
"""`vivit push`: uploads a trained model to the Hugging Face Hub."""

import argparse

from vivit_jax.cli.options import add_command, use_cpu, workdir

HELP = """
Uploads model.safetensors (the best weights), the report, and a model card created from the report.
Requires a report of these weights, a login (`hf auth login` or HF_TOKEN), and a new name.

example:
  vivit push --workdir=runs/digits owner/digits --private --license=cc-by-4.0
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'push',
    run,
    summary='upload a trained model to the Hugging Face Hub',
    description='Uploads a trained model to the Hugging Face Hub, with a card from its report.',
    usage='--workdir=FOLDER OWNER/NAME [--private] [--license=ID] [--update]',
    epilog=HELP,
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run')
  command.add_argument('repository', metavar='OWNER/NAME', help='repository to create on the hub')
  command.add_argument('--private', action='store_true', help='only the owner can see it')
  command.add_argument(
    '--license', metavar='ID', help='license of the weights, by its name on the hub'
  )
  command.add_argument('--update', action='store_true', help='commit to an existing repository')


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  use_cpu()
  from vivit_jax.weights.push import push

  address = push(
    workdir(options),
    options.repository,
    private=options.private,
    update=options.update,
    license_id=options.license,
  )
  print(f'{options.workdir} -> {address}')
  return 0
