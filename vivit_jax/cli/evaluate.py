# SPDX-License-Identifier: Apache-2.0
"""`vivit evaluate`: evaluates a trained model with several views."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_command, parse_views, workdir
from vivit_jax.config.schema import Faults
from vivit_jax.distributed.launch import add_launch

HELP = """\
example:
  vivit evaluate --workdir=runs/digits --step=last --views=4x3 --split=validation
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'evaluate',
    run,
    summary='evaluate a trained model with several views',
    description='Evaluates a run on its test videos; writes report.json, figures and report.html.',
    usage='--workdir=FOLDER [--step=STEP] [--views=TxS] [--split=SPLIT] [--output=FOLDER] '
    '[--predictions=FORMAT]',
    epilog=HELP,
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run')
  command.add_argument(
    '--step', default='best', metavar='STEP', help="'best' (default), 'last' or a saved step"
  )
  command.add_argument(
    '--views', metavar='TxS', help='temporal x spatial views (default: those of the run, e.g. 4x3)'
  )
  command.add_argument(
    '--split',
    choices=('train', 'validation', 'test'),
    metavar='SPLIT',
    help='train, validation or test (default: test, or validation if there is no test.csv)',
  )
  command.add_argument(
    '--output',
    metavar='FOLDER',
    help='folder of the report (default: WORKDIR/evaluations/SPLIT-STEP-VIEWS, or WORKDIR if no '
    'other option is given)',
  )
  command.add_argument(
    '--predictions',
    choices=('csv', 'parquet'),
    metavar='FORMAT',
    help='csv or parquet: also write predictions.FORMAT beside the report, with the probability of '
    'every class for each video',
  )
  add_launch(command)


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  from vivit_jax.distributed.hosts import assert_equal_on_all_hosts, versions
  from vivit_jax.distributed.launch import keep_compiled_programs, start
  from vivit_jax.train.run_evaluation import evaluate_run

  folder = workdir(options)
  views = parse_views(options.views) if options.views else None
  start(options, Faults().heartbeat_timeout_seconds)  # the run's config cannot be read yet
  keep_compiled_programs()
  names = ('step', 'views', 'split', 'output', 'predictions')
  assert_equal_on_all_hosts(versions() | {f'--{name}': getattr(options, name) for name in names})
  evaluate_run(
    folder,
    step=options.step,
    split=options.split,
    views=views,
    output=Path(options.output) if options.output else None,
    predictions_as=options.predictions,
  )
  return 0
