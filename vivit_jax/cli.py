# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command: what can be said on its command line."""

import argparse
import logging
import os
import sys
import typing
import warnings
from collections.abc import Sequence
from typing import NoReturn

from vivit_jax import __version__, commands
from vivit_jax.command_line import Parser, add_command, last_words, open_standard_streams
from vivit_jax.config import Hints
from vivit_jax.config_parse import required
from vivit_jax.data_commands.group import add_data
from vivit_jax.hosts import ending
from vivit_jax.hosts.launch import add_launch
from vivit_jax.plan import command as plan

TRAIN_HELP = """
example:
  vivit train --config=configs/moving_digits.py --config.train.steps=100 --workdir=runs/digits
"""

EVALUATE_HELP = """\
example:
  vivit evaluate --workdir=runs/digits --step=last --views=4x3 --split=validation
"""

INSPECT_HELP = """
examples:
  vivit inspect --config=configs/kinetics400.py:B/16x2,factorised_encoder --json
  vivit inspect --config=configs/kinetics400.py:H/14x2 --config.mesh.fsdp=8 --devices=64
  vivit inspect runs/digits
"""

CONVERT_HELP = """
example:
  vivit convert vivit_base.msgpack vivit_base.safetensors --to=safetensors --frames=32
"""

PREDICT_HELP = """
examples:
  vivit predict --checkpoint=runs/digits clip.mp4 folder/of/videos
  vivit predict --checkpoint=hf://google/vivit-b-16x2-kinetics400 --views=1x1 --json clip.mp4
"""

CONFIG_HELP = """\
settings:
  --config=FILE[:VARIANT]         an ml_collections file, e.g. configs/moving_digits.py or
                                  configs/kinetics400.py:B/16x2,factorised_encoder
  --config.SECTION.NAME=VALUE     overrides one setting, e.g. --config.train.steps=100
                                  (`vivit inspect --config=FILE` lists all of them)
"""


CHECKPOINT = (
  'workdir, workdir/checkpoints/STEP, Hugging Face folder, .safetensors, .msgpack, .npz, '
  'hf://owner/name or gs://bucket/path'
)


def make_parser() -> Parser:
  """Returns the parser of all subcommands."""
  parser = Parser(prog='vivit', description='Video Vision Transformers in JAX.')
  parser.add_argument('--version', action='version', version=f'vivit_jax {__version__}')
  subcommands = parser.add_subparsers(metavar='COMMAND', required=True)
  own = (_add_train, _add_evaluate, _add_inspect, _add_convert, _add_predict)
  for add in (*own, plan.add, add_data):
    add(subcommands)
  return parser


def _add_train(subcommands: argparse._SubParsersAction) -> None:
  command = add_command(
    subcommands,
    'train',
    commands.train,
    'train a model, evaluate it and write a report',
    'Trains a model, evaluates it with several views and writes a report.\n'
    'Run the same command again to continue a run that was stopped.',
    CONFIG_HELP + TRAIN_HELP,
    '--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] --workdir=FOLDER',
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run; made if missing')
  command.add_argument(
    '--overfit-one-batch',
    action='store_true',
    help='instead, check in a minute whether the model can learn one batch by heart (exit code 1 '
    'if not); writes nothing',
  )
  command.add_argument(
    '--allow-changes',
    action='store_true',
    help='continue the run although settings or data are no longer those it was trained with so '
    'far; config.json then lists what changed',
  )
  command.add_argument(
    '--profile',
    metavar='FIRST:LAST',
    help='trace these steps into FOLDER/profile, e.g. --profile=100:105',
  )
  add_launch(command)


def _add_evaluate(subcommands: argparse._SubParsersAction) -> None:
  command = add_command(
    subcommands,
    'evaluate',
    commands.evaluate,
    'evaluate a trained model with several views',
    'Evaluates a run on its test videos and writes report.json, pictures and report.html.',
    EVALUATE_HELP,
    '--workdir=FOLDER [--step=STEP] [--views=TxS] [--split=SPLIT] [--output=FOLDER]',
  )
  command.add_argument('--workdir', metavar='FOLDER', help='folder of the run')
  command.add_argument(
    '--step', default='best', metavar='STEP', help="'best' (default), 'last' or a kept step"
  )
  command.add_argument(
    '--views', metavar='TxS', help='temporal x spatial views (default: those of the run, e.g. 4x3)'
  )
  command.add_argument(
    '--split',
    choices=('train', 'validation', 'test'),
    metavar='SPLIT',
    help='train, validation or test (default: test, or validation where there is no test.csv)',
  )
  command.add_argument(
    '--output',
    metavar='FOLDER',
    help="of the report (default: WORKDIR/evaluations/SPLIT-STEP-VIEWS, or WORKDIR, training's own "
    'report, where nothing else is asked for)',
  )
  add_launch(command)


def _add_inspect(subcommands: argparse._SubParsersAction) -> None:
  command = add_command(
    subcommands,
    'inspect',
    commands.inspect,
    'show a configuration or a checkpoint: tokens, parameters, cost, memory',
    'Shows what a configuration means, without data, parameters, compilation or accelerator;\n'
    'or what a checkpoint of any format holds.',
    CONFIG_HELP + INSPECT_HELP,
    '(--config=FILE[:VARIANT] [--config.SECTION.NAME=VALUE ...] [--devices=N] | CHECKPOINT) '
    '[--json]',
  )
  command.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help=CHECKPOINT)
  command.add_argument(
    '--devices', type=int, metavar='N', help='where it is to run (default: as config.mesh says)'
  )
  command.add_argument('--json', action='store_true', help='print the same as JSON')
  _add_hints(command)


def _add_convert(subcommands: argparse._SubParsersAction) -> None:
  command = add_command(
    subcommands,
    'convert',
    commands.convert,
    'write a checkpoint in another format',
    'Writes a checkpoint of any format as another program or a training run reads it.',
    CONVERT_HELP,
    'SOURCE TARGET --to=FORMAT',
  )
  command.add_argument('source', metavar='SOURCE', help=CHECKPOINT)
  command.add_argument('target', metavar='TARGET', help='file or folder to write; must not exist')
  command.add_argument(
    '--to',
    required=True,
    choices=('huggingface', 'safetensors', 'orbax'),
    metavar='FORMAT',
    help='huggingface (a folder for VivitForVideoClassification), safetensors (one file, all '
    'models) or orbax (a workdir as `vivit train` leaves it)',
  )
  _add_hints(command)


def _add_predict(subcommands: argparse._SubParsersAction) -> None:
  command = add_command(
    subcommands,
    'predict',
    commands.predict,
    'name what videos show',
    'Prints the most probable classes of videos, averaged over several views.',
    PREDICT_HELP,
    '--checkpoint=CHECKPOINT VIDEO... [--views=TxS] [--top=N] [--json]',
  )
  command.add_argument('videos', nargs='+', metavar='VIDEO', help='video, folder, or CSV with path')
  command.add_argument('--checkpoint', required=True, metavar='CHECKPOINT', help=CHECKPOINT)
  command.add_argument('--views', default='4x3', metavar='TxS', help='temporal x spatial (4x3)')
  command.add_argument('--top', type=int, default=5, metavar='N', help='classes per video (5)')
  command.add_argument('--json', action='store_true', help='print JSON instead of a table')
  _add_hints(command)


def _add_hints(command: Parser) -> None:
  """Adds what a checkpoint's tensors cannot tell, one option per field of `Hints`."""
  group = command.add_argument_group(
    'what the checkpoint does not tell (errors list what is missing)'
  )
  for name, hint in typing.get_type_hints(Hints).items():
    kind = required(hint)
    if kind is bool:
      continue
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
    group.add_argument(
      f'--{name.replace("_", "-")}',
      dest=f'hint_{name}',
      type=str if choices else kind,
      choices=choices,
      metavar='|'.join(choices) if choices else name.upper(),
    )


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
    ending.finish()
    return code
  except (Exception, KeyboardInterrupt) as error:
    return ending.fail(error)


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
