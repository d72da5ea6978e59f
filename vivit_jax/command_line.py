# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: how they are declared and how they answer mistakes."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from vivit_jax.errors import UserError, printable


class Parser(argparse.ArgumentParser):
  """Answers a wrong command line in one line."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def add_command(
  subcommands: argparse._SubParsersAction,
  name: str,
  function: Callable[[argparse.Namespace], int],
  summary: str,
  description: str,
  epilog: str,
  usage: str,
) -> Parser:
  """Declares one command; its parser takes `--config` settings where `usage` has them.

  Args:
    subcommands: of the program, or of the group that the command belongs to.
    name: with that of its group, e.g. 'data index'.
    function: what runs it; returns the exit code.
    summary: one line for the list of commands.
    description: above the options.
    epilog: below them; examples.
    usage: what follows the name.
  """
  command = subcommands.add_parser(
    name.split()[-1],
    help=summary,
    description=description,
    epilog=epilog,
    usage=f'vivit {name} {usage}',
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  takes_config = '--config' in usage
  command.set_defaults(function=function, takes_config=takes_config, command=command)
  return command


def report(error: BaseException) -> int:
  """Prints a user's mistake in one line and returns the exit code; raises any other error."""
  if isinstance(error, KeyboardInterrupt):
    print('vivit: interrupted', file=sys.stderr)
    return 130
  if isinstance(error, UserError):
    message = str(error)
  elif isinstance(error, OSError):
    where = printable(str(error.filename or ''))
    message = f'{where}: {error.strerror or error}'.removeprefix(': ')
  else:
    raise error
  print(f'vivit: error: {message}', file=sys.stderr)
  return 2


def open_standard_streams() -> None:
  """Opens those that the caller has closed (`>&-`), or the next file would take their place."""
  while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
  os.close(nowhere)
  for name, number, mode in (('stdin', 0, 'r'), ('stdout', 1, 'w'), ('stderr', 2, 'w')):
    if getattr(sys, name) is None:
      setattr(sys, name, os.fdopen(number, mode, closefd=False))


def last_words(code: int) -> int:
  """Writes what standard output still holds; returns the exit code; 2, not 0, if it is lost."""
  try:
    sys.stdout.flush()
    return code
  except OSError as error:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # what Python flushes at its end
    os.close(nowhere)
    print(f'vivit: error: standard output cannot be written: {error.strerror}', file=sys.stderr)
    return code or 2
