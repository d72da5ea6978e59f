# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command: train, evaluate, inspect."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vivit_jax import __version__
from vivit_jax.errors import UserError

TRAIN_HELP = """
example:
  vivit train --config=configs/moving_digits.py --config.train.steps=100 --workdir=runs/digits
"""

EVALUATE_HELP = """\
example:
  vivit evaluate --workdir=runs/digits --step=last --views=4x3 --split=validation
"""

INSPECT_HELP = """
example:
  vivit inspect --config=configs/kinetics400.py:B/16x2,factorised_encoder --json
"""

CONFIG_HELP = """\
settings:
  --config=FILE[:VARIANT]         an ml_collections file, e.g. configs/moving_digits.py or
                                  configs/kinetics400.py:B/16x2,factorised_encoder
  --config.SECTION.NAME=VALUE     overrides one setting, e.g. --config.train.steps=100
                                  (`vivit inspect --config=FILE` lists all of them)
"""


class Parser(argparse.ArgumentParser):
  """Answers a wrong command line in one line."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def make_parser() -> Parser:
  """Returns the parser of all subcommands."""
  parser = Parser(prog='vivit', description='Video Vision Transformers in JAX.')
  parser.add_argument('--version', action='version', version=f'vivit_jax {__version__}')
  commands = parser.add_subparsers(metavar='COMMAND', required=True)

  def add(name: str, function, summary: str, description: str, epilog: str, usage: str) -> Parser:
    command = commands.add_parser(
      name,
      help=summary,
      description=description,
      epilog=epilog,
      usage=f'vivit {name} {usage}',
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    takes_config = usage.startswith('--config')
    command.set_defaults(function=function, takes_config=takes_config, command=command)
    return command

  train = add(
    'train',
    train_command,
    'train a model, evaluate it and write a report',
    'Trains a model, evaluates it with several views and writes a report.\n'
    'Run the same command again to continue a run that was stopped.',
    CONFIG_HELP + TRAIN_HELP,
    '--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] --workdir=FOLDER',
  )
  train.add_argument('--workdir', metavar='FOLDER', help='folder of the run; made if missing')

  evaluate = add(
    'evaluate',
    evaluate_command,
    'evaluate a trained model with several views',
    'Evaluates a run on its test videos and writes report.json, pictures and report.html.',
    EVALUATE_HELP,
    '--workdir=FOLDER [--step=STEP] [--views=TxS] [--split=SPLIT]',
  )
  evaluate.add_argument('--workdir', metavar='FOLDER', help='folder of the run')
  evaluate.add_argument(
    '--step',
    default='best',
    metavar='STEP',
    help="'best' (default), 'last' or the number of a kept step",
  )
  evaluate.add_argument(
    '--views', metavar='TxS', help='temporal x spatial views (default: those of the run, e.g. 4x3)'
  )
  evaluate.add_argument(
    '--split',
    default='test',
    choices=('train', 'validation', 'test'),
    metavar='SPLIT',
    help='train, validation or test (default: %(default)s)',
  )

  inspect = add(
    'inspect',
    inspect_command,
    'show a configuration: tokens, parameters, cost, memory',
    'Shows what a configuration means, without data, parameters, compilation or accelerator.',
    CONFIG_HELP + INSPECT_HELP,
    '--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] [--json]',
  )
  inspect.add_argument('--json', action='store_true', help='print the same as JSON')
  return parser


def train_command(options: argparse.Namespace) -> int:
  """Runs `vivit train`."""
  from vivit_jax.config_file import load
  from vivit_jax.train.loop import train
  from vivit_jax.train.stop import Stopped

  try:
    train(load(options.settings), Path(options.workdir))
  except Stopped as stopped:
    print(f'vivit: {stopped}')
    return 130 if stopped.by.name == 'SIGINT' else 0
  return 0


def evaluate_command(options: argparse.Namespace) -> int:
  """Runs `vivit evaluate`."""
  from vivit_jax.train.evaluation import evaluate_run, parse_views

  views = parse_views(options.views) if options.views else None
  evaluate_run(Path(options.workdir), step=options.step, split=options.split, views=views)
  return 0


def inspect_command(options: argparse.Namespace) -> int:
  """Runs `vivit inspect`."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # a training run may hold the accelerators
  from vivit_jax.config_file import load
  from vivit_jax.summary import as_json, as_text, summarise

  summary = summarise(load(options.settings))
  print(as_json(summary) if options.json else as_text(summary))
  return 0


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; a user's mistake ends in one line and exit code 2."""
  parser = make_parser()
  arguments = list(sys.argv[1:] if arguments is None else arguments)
  options, rest = parser.parse_known_args(arguments)
  options.settings = _take_settings(rest, options.takes_config, options.command)
  # Not argparse's `required`, which would name --workdir where it is only misspelt.
  if not getattr(options, 'workdir', 'none needed'):
    options.command.error('give the folder of the run as --workdir=FOLDER')
  _quieten_libraries()
  try:
    return options.function(options)
  except UserError as error:
    message = str(error)
  except OSError as error:
    message = f'{error.filename or ""}: {error.strerror or error}'.removeprefix(': ')
  except KeyboardInterrupt:
    print('vivit: interrupted', file=sys.stderr)
    return 130
  print(f'vivit: error: {message}', file=sys.stderr)
  return 2


def _take_settings(rest: list[str], takes_config: bool, parser: Parser) -> list[str]:
  """Returns the --config arguments, each as one `--name=value`; refuses everything else."""
  settings: list[str] = []
  queue = iter(rest)
  for argument in queue:
    name = argument.partition('=')[0]
    if not takes_config or not (name == '--config' or name.startswith('--config.')):
      parser.error(f'unknown argument {argument!r}')
    value = None if '=' in argument else next(queue, None)
    settings.append(argument if value is None else f'{argument}={value}')
  return settings


def _quieten_libraries() -> None:
  """Leaves the terminal to what concerns the run; VIVIT_LOG=INFO brings the libraries back."""
  level = os.environ.get('VIVIT_LOG', 'ERROR')
  for name in ('absl', 'jax', 'orbax', 'grain'):
    logging.getLogger(name).setLevel(level)
  if level == 'ERROR':
    warnings.filterwarnings('ignore', module='orbax')


def entry() -> NoReturn:
  """Entry point of the installed command."""
  sys.exit(main())
