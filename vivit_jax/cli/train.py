# SPDX-License-Identifier: Apache-2.0
"""`vivit train`: trains a model, or continues a stopped run."""

import argparse
import signal
import sys

from vivit_jax.cli.options import CONFIG_HELP, add_command, workdir
from vivit_jax.distributed.launch import add_launch

HELP = """
example:
  vivit train --config=moving_digits --config.train.steps=100 --workdir=runs/digits
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'train',
    run,
    summary='train a model, evaluate it and write a report',
    description=(
      'Trains a model, evaluates it with several views and writes a report.\n'
      'Run the same command again to continue a stopped run.'
    ),
    usage='--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] --workdir=FOLDER',
    epilog=CONFIG_HELP + HELP,
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run; created if missing')
  command.add_argument(
    '--overfit-one-batch',
    action='store_true',
    help='instead, check within a minute that the model can overfit one batch (exit code 1 if '
    'not); writes nothing',
  )
  command.add_argument(
    '--allow-changes',
    action='store_true',
    help='continue the run even if settings or data have changed; the changes are recorded in '
    'config.json',
  )
  command.add_argument(
    '--profile',
    metavar='FIRST:LAST',
    help='trace these steps into FOLDER/profile, e.g. --profile=100:105',
  )
  add_launch(command)


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  from flax.traverse_util import flatten_dict

  from vivit_jax.config.file import load
  from vivit_jax.config.parse import to_dict
  from vivit_jax.distributed.hosts import assert_equal_on_all_hosts, versions
  from vivit_jax.distributed.launch import keep_compiled_programs, start
  from vivit_jax.train.loop import train
  from vivit_jax.train.profile import parse_steps
  from vivit_jax.train.sanity import overfit_one_batch
  from vivit_jax.train.stop import Stopped

  folder = None if options.overfit_one_batch else workdir(options)
  config = load(options.settings)
  profile = parse_steps(options.profile) if options.profile is not None else None
  start(options, config.faults.heartbeat_timeout_seconds)
  keep_compiled_programs()
  assert_equal_on_all_hosts({**versions(), **flatten_dict({'config': to_dict(config)}, sep='.')})
  if folder is None:
    return 0 if overfit_one_batch(config) else 1
  try:
    train(
      config,
      folder,
      allow_changes=options.allow_changes,
      profile=profile,
      ends_process=True,
    )
  except Stopped as stopped:
    print(f'vivit: {stopped}', file=sys.stderr if stopped.by == signal.SIGPIPE else sys.stdout)
    return stopped.code
  return 0
