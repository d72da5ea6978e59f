# SPDX-License-Identifier: Apache-2.0
"""`vivit configs`: lists recipes, and copies them for editing."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_command

HELP = """
Use a recipe by its name: --config=kinetics400:B/16x2,factorised_encoder. The variants, after the
colon, are described in its file.

examples:
  vivit configs
  vivit configs copy finetune mine.py
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'configs',
    run,
    summary='list the recipes of this package, or copy one',
    description='Lists the recipes, which can be used by name with --config.',
    usage='[copy NAME [TARGET]]',
    epilog=HELP,
  )
  actions = command.add_subparsers(metavar='copy', required=False)
  copying = add_command(
    actions,
    'configs copy',
    run_copy,
    summary='copy the file of a recipe for editing',
    description='Copies the file of a recipe.',
    usage='NAME [TARGET]',
    epilog='',
  )
  copying.add_argument('name', metavar='NAME', help='name of a recipe, e.g. finetune')
  copying.add_argument(
    'target',
    nargs='?',
    type=Path,
    default=Path(),
    metavar='TARGET',
    help='file to write, or folder for NAME.py (default: current folder)',
  )


def run(options: argparse.Namespace) -> int:
  """Lists the recipes."""
  from vivit_jax.config.recipe_files import recipes, summary

  found = recipes()
  width = max(map(len, found))
  for name, file in found.items():
    print(f'{name:{width}}  {summary(file)}')
  return 0


def run_copy(options: argparse.Namespace) -> int:
  """Copies a recipe."""
  from vivit_jax.config.recipe_files import copy

  file = copy(options.name, options.target)
  print(f'{options.name} -> {file}: use it as --config={file}')
  return 0
