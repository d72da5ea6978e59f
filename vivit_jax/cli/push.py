# SPDX-License-Identifier: Apache-2.0
"""`vivit push`: a trained model on the Hugging Face Hub."""

import argparse

from vivit_jax.cli.options import add_command, use_cpu, workdir

HELP = """
Uploads model.safetensors (the best weights), the report, and a model card that is made from it.
Needs a report of these weights, a login (`hf auth login` or HF_TOKEN), and a new name.

example:
  vivit push --workdir=runs/digits owner/digits --private --license=cc-by-4.0
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'push',
    run,
    summary='put a trained model on the Hugging Face Hub',
    description='Puts a trained model on the Hugging Face Hub, with a card made from its report.',
    usage='--workdir=FOLDER OWNER/NAME [--private] [--license=ID] [--update]',
    epilog=HELP,
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run')
  command.add_argument('repository', metavar='OWNER/NAME', help='to make on the hub')
  command.add_argument('--private', action='store_true', help='only its owner sees it')
  command.add_argument('--license', metavar='ID', help='of the weights, as the hub names licenses')
  command.add_argument(
    '--update', action='store_true', help='commit to a repository that exists already'
  )


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
