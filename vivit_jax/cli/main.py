# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command: parses its command line and runs one command."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from vivit_jax import __version__
from vivit_jax.cli import (
  configs,
  convert,
  data_bench,
  data_build,
  data_check,
  data_index,
  evaluate,
  explain,
  export,
  features,
  inspect,
  plan,
  predict,
  push,
  serve,
  timeline,
  train,
)
from vivit_jax.cli.options import Parser, flush_output, open_standard_streams
from vivit_jax.config.renamed import OPTIONS
from vivit_jax.distributed import shutdown
from vivit_jax.distributed.allocator import use_fast_allocator
from vivit_jax.distributed.launch import quieten_libraries

# Each module declares its command in `add(subcommands)` and runs it in `run(options)`, which
# returns the exit code and imports libraries late, so that --help is fast.
COMMANDS = (
  *(train, evaluate, inspect, convert, predict, plan, configs),
  *(features, explain, timeline, export, push, serve),
)
DATA_COMMANDS = (data_index, data_check, data_build, data_bench)


def make_parser() -> Parser:
  """Returns the parser of all commands."""
  parser = Parser(prog='vivit', description='Video Vision Transformers in JAX.')
  parser.add_argument('--version', action='version', version=f'vivit_jax {__version__}')
  subcommands = parser.add_subparsers(metavar='COMMAND', required=True)
  for command in COMMANDS:
    command.add(subcommands)
  group = subcommands.add_parser(
    'data', help='index, prepare, check and time videos', description='Prepares videos.'
  )
  data_subcommands = group.add_subparsers(metavar='COMMAND', required=True)
  for command in DATA_COMMANDS:
    command.add(data_subcommands)
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command; a UserError is printed in one line, with exit code 2."""
  parser = make_parser()
  arguments = _join_settings(sys.argv[1:] if arguments is None else arguments)
  # Before argparse, which treats an unknown option that contains a space as a positional argument.
  settings, others = _split_settings(arguments)
  options, rest = parser.parse_known_args(others)
  for argument in rest if options.takes_config else [*rest, *settings]:
    new = OPTIONS.get(argument.partition('=')[0])
    options.command.error(
      f'{argument} is now called {new}' if new else f'unknown argument {argument!r}'
    )
  options.settings = settings
  try:
    with quieten_libraries():
      code = options.run(options)
    shutdown.exit_cleanly()
    return code
  except (Exception, KeyboardInterrupt) as error:
    return shutdown.exit_with_error(error)


def _join_settings(arguments: Sequence[str]) -> list[str]:
  """Joins `--config.name value` to `--config.name=value`; argparse would take the value."""
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
  """Splits off the `--config` arguments; arguments after `--` are not settings."""
  end = arguments.index('--') if '--' in arguments else len(arguments)
  settings = [argument for argument in arguments[:end] if _is_setting(argument)]
  others = [argument for argument in arguments[:end] if not _is_setting(argument)]
  return settings, [*others, *arguments[end:]]


def _quieten_orbax() -> None:
  """Silences errors in Orbax's threads that are also raised and reported in one line."""

  def is_orbax(unraisable: 'sys.UnraisableHookArgs') -> bool:
    closed = str(unraisable.exc_value) == 'Event loop is closed'
    code = getattr(unraisable.object, 'cr_code', None)
    return closed or (code is not None and 'orbax' in code.co_filename)

  show = sys.unraisablehook
  sys.unraisablehook = lambda what: None if is_orbax(what) else show(what)
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').addFilter(lambda record: 'orbax' not in record.getMessage())
  # Writes that had not begun when another one failed.
  warnings.filterwarnings('ignore', r"coroutine 'async_serialize.*never awaited", RuntimeWarning)


def entry() -> NoReturn:
  """Entry point of the installed command."""
  if 'VIVIT_LOG' not in os.environ:
    _quieten_orbax()
  open_standard_streams()
  use_fast_allocator(sys.argv[1:])
  sys.exit(flush_output(main()))
