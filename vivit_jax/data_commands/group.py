# SPDX-License-Identifier: Apache-2.0
"""The commands of `vivit data`."""

import argparse
from collections.abc import Callable

from vivit_jax.data_commands import bench, build, check, index

# Each declares one command on the parsers of the group.
COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
  index.add,
  check.add,
  build.add,
  bench.add,
)


def add_data(subcommands: argparse._SubParsersAction) -> None:
  """Declares `vivit data` and what it can do."""
  group = subcommands.add_parser(
    'data', help='index, prepare, check and time videos', description='Prepares videos.'
  )
  commands = group.add_subparsers(metavar='COMMAND', required=True)
  for add in COMMANDS:
    add(commands)
