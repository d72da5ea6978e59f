# SPDX-License-Identifier: Apache-2.0
"""Parsers of the commands, and options shared by several commands."""

import argparse
import os
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vivit_jax.config.parse import required
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import ConfigError
from vivit_jax.files import discard_output


class Parser(argparse.ArgumentParser):
  """An ArgumentParser that reports errors in one line."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def add_command(
  subcommands: argparse._SubParsersAction,
  name: str,
  run: Callable[[argparse.Namespace], int],
  *,
  summary: str,
  description: str,
  usage: str,
  epilog: str,
) -> Parser:
  """Declares one command; its parser takes `--config` settings if `usage` has them.

  Args:
    subcommands: subparsers of the program, or of the command's group.
    name: name, including the group, e.g. 'data index'.
    run: runs the command and returns the exit code.
    summary: one line for the list of commands.
    description: text above the options.
    usage: arguments in the usage line, after the name.
    epilog: text below the options, with examples.
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
  command.set_defaults(run=run, takes_config='--config' in usage, command=command)
  return command


def open_standard_streams() -> None:
  """Opens closed standard streams (`>&-`), since other files would get their descriptors."""
  while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
  os.close(nowhere)
  for name, number, mode in (('stdin', 0, 'r'), ('stdout', 1, 'w'), ('stderr', 2, 'w')):
    if getattr(sys, name) is None:
      setattr(sys, name, os.fdopen(number, mode, closefd=False))


def flush_output(code: int) -> int:
  """Flushes standard output and returns the exit code; 2 instead of 0 if that fails."""
  try:
    sys.stdout.flush()
    return code
  except OSError as error:
    discard_output(sys.stdout.fileno())
    print(f'vivit: error: standard output cannot be written: {error.strerror}', file=sys.stderr)
    return code or 2


CONFIG_HELP = """\
settings:
  --config=FILE[:VARIANT]         a recipe listed by `vivit configs`, e.g. moving_digits or
                                  kinetics400:B/16x2; or an ml_collections file, e.g. mine.py
  --config.SECTION.NAME=VALUE     overrides one setting, e.g. --config.train.steps=100
                                  (`vivit inspect --config=FILE` lists all of them)
"""


CHECKPOINT = (
  'workdir, workdir/checkpoints/STEP, Hugging Face folder, .safetensors, .msgpack, .npz, '
  'hf://owner/name or gs://bucket/path'
)


def add_facts(command: Parser) -> None:
  """Adds one option per field of `CheckpointFacts`, for settings that checkpoints may not have."""
  group = command.add_argument_group(
    'settings that the checkpoint does not have (errors list missing ones)'
  )
  for name, hint in typing.get_type_hints(CheckpointFacts).items():
    kind = required(hint)
    if kind is bool:
      continue
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
    group.add_argument(
      f'--{name.replace("_", "-")}',
      type=str if choices else kind,
      choices=choices,
      metavar='|'.join(choices) if choices else name.upper(),
    )


def add_checkpoint(command: Parser) -> None:
  """Adds the checkpoint as the first argument, and the options of `add_facts`."""
  command.add_argument('checkpoint', metavar='CHECKPOINT', help=CHECKPOINT)
  add_facts(command)


def facts(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the given options of `add_facts`, by field of `CheckpointFacts`."""
  given = {name: getattr(options, name, None) for name in typing.get_type_hints(CheckpointFacts)}
  return {name: value for name, value in given.items() if value is not None}


def workdir(options: argparse.Namespace) -> Path:
  """Returns --workdir. It is required here, as argparse would not report a misspelt option."""
  if not options.workdir:
    options.command.error('give the folder of the run as --workdir=FOLDER')
  return Path(options.workdir)


def use_cpu() -> None:
  """Runs on the CPU, since a training run may be using the accelerators."""
  import jax

  jax.config.update('jax_platforms', 'cpu')


def parse_views(text: str) -> tuple[int, int]:
  """Parses temporal and spatial views from `TxS`."""
  match = re.fullmatch(r'([1-9]\d{0,8})x([1-9]\d{0,8})', text, re.ASCII)
  if match is None:
    raise ConfigError(
      f'--views={text} is not TxS, temporal x spatial views, each below a billion, e.g. 4x3'
    )
  return int(match[1]), int(match[2])
