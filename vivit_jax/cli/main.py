# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command: what can be said on its command line."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from vivit_jax import __version__
from vivit_jax.cli import (
  convert,
  data_bench,
  data_build,
  data_check,
  data_index,
  evaluate,
  inspect,
  plan,
  predict,
  train,
)
from vivit_jax.cli.options import Parser, last_words, open_standard_streams
from vivit_jax.distributed import shutdown


def make_parser() -> Parser:
  """Returns the parser of all subcommands."""
  parser = Parser(prog='vivit', description='Video Vision Transformers in JAX.')
  parser.add_argument('--version', action='version', version=f'vivit_jax {__version__}')
  subcommands = parser.add_subparsers(metavar='COMMAND', required=True)
  own = (train.add, evaluate.add, inspect.add, convert.add, predict.add)
  for add in (*own, plan.add, add_data):
    add(subcommands)
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; a user's mistake ends in one line and exit code 2."""
  parser = make_parser()
  arguments = _join_settings(sys.argv[1:] if arguments is None else arguments)
  # Before argparse, which takes an unknown option with a space in it for a positional argument.
  settings, others = _split_settings(arguments)
  options, rest = parser.parse_known_args(others)
  for argument in rest if options.takes_config else [*rest, *settings]:
    options.command.error(f'unknown argument {argument!r}')
  options.settings = settings
  options.hints = {
    name.removeprefix('hint_'): value
    for name, value in vars(options).items()
    if name.startswith('hint_') and value is not None
  }
  # Not argparse's `required`, which would name --workdir where it is only misspelt.
  needs_workdir = not getattr(options, 'overfit_one_batch', False)
  if needs_workdir and not getattr(options, 'workdir', 'none needed'):
    options.command.error('give the folder of the run as --workdir=FOLDER')
  _quieten_libraries()
  try:
    code = options.function(options)
    shutdown.exit_cleanly()
    return code
  except (Exception, KeyboardInterrupt) as error:
    return shutdown.exit_with_error(error)


def _join_settings(arguments: Sequence[str]) -> list[str]:
  """Writes `--config.name value` as `--config.name=value`, before argparse takes the value away."""
  joined: list[str] = []
  for argument in arguments:
    if joined and _is_setting(joined[-1]) and '=' not in joined[-1] and argument[:2] != '--':
      joined[-1] += f'={argument}'
    else:
      joined.append(argument)
  return joined


def _is_setting(argument: str) -> bool:
  name = argument.partition('=')[0]
  return name == '--config' or name.startswith('--config.')


def _split_settings(arguments: list[str]) -> tuple[list[str], list[str]]:
  """Returns the `--config` arguments and all others; after `--` there are only others."""
  end = arguments.index('--') if '--' in arguments else len(arguments)
  settings = [argument for argument in arguments[:end] if _is_setting(argument)]
  others = [argument for argument in arguments[:end] if not _is_setting(argument)]
  return settings, [*others, *arguments[end:]]


def _quieten_libraries() -> None:
  """Leaves the terminal to what concerns the run; VIVIT_LOG=INFO brings the libraries back."""
  level = os.environ.get('VIVIT_LOG', 'ERROR')
  for name in ('absl', 'jax', 'orbax', 'grain'):
    logging.getLogger(name).setLevel(level)
  if level == 'ERROR':
    warnings.filterwarnings('ignore', module='orbax')


def _quieten_orbax() -> None:
  """Leaves out what its threads print of failures that are raised to us too, and are one line."""

  def is_orbax(unraisable: 'sys.UnraisableHookArgs') -> bool:
    closed = str(unraisable.exc_value) == 'Event loop is closed'
    code = getattr(unraisable.object, 'cr_code', None)
    return closed or (code is not None and 'orbax' in code.co_filename)

  show = sys.unraisablehook
  sys.unraisablehook = lambda what: None if is_orbax(what) else show(what)
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').addFilter(lambda record: 'orbax' not in record.getMessage())


def entry() -> NoReturn:
  """Entry point of the installed command."""
  if 'VIVIT_LOG' not in os.environ:
    _quieten_orbax()
  open_standard_streams()
  sys.exit(last_words(main()))


# Each declares one command on the parsers of the group.
COMMANDS: tuple[Callable[[argparse._SubParsersAction], None], ...] = (
  data_index.add,
  data_check.add,
  data_build.add,
  data_bench.add,
)


def add_data(subcommands: argparse._SubParsersAction) -> None:
  """Declares `vivit data` and what it can do."""
  group = subcommands.add_parser(
    'data', help='index, prepare, check and time videos', description='Prepares videos.'
  )
  commands = group.add_subparsers(metavar='COMMAND', required=True)
  for add in COMMANDS:
    add(commands)
