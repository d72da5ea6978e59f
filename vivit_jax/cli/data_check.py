# SPDX-License-Identifier: Apache-2.0
"""`vivit data check`: finds unreadable videos of a data set."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_command

HELP = """
If the check is interrupted, run it again to resume; unchanged files are not read again. Training
and evaluation skip the videos listed in FOLDER/quarantine.csv.

examples:
  vivit data check FOLDER
  vivit data check FOLDER/train.csv --quick --workers=32
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'data check',
    run,
    summary='find videos that cannot be read',
    description=(
      'Decodes all videos in manifests and writes a list of the bad ones, quarantine.csv.\n'
      'Files that crash or hang the decoder, or exhaust its memory, only end one worker process.\n'
      'Exit code 1 if any video is bad.'
    ),
    usage='FOLDER|CSV [--split=SPLIT] [--quick] [--workers=N] [--timeout=S] [--output=FILE]',
    epilog=HELP,
  )
  command.add_argument(
    'source', type=Path, metavar='FOLDER|CSV', help='folder of manifests, or one manifest'
  )
  command.add_argument('--split', metavar='SPLIT', help='train, validation or test (default: all)')
  command.add_argument(
    '--quick', action='store_true', help='decode the first, middle and last frames instead of all'
  )
  command.add_argument('--workers', type=int, metavar='N', help='processes (default: one per core)')
  command.add_argument(
    '--timeout', type=float, metavar='S', help='seconds per video (30, plus 1 per megabyte)'
  )
  command.add_argument(
    '--output', type=Path, metavar='FILE', help='list to write (FOLDER/quarantine.csv)'
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command; returns 1 if a video is bad."""
  import os

  from vivit_jax.data.prepare.check import Check, files_of, splits_of
  from vivit_jax.data.splits import FILE
  from vivit_jax.errors import ConfigError

  workers = len(os.sched_getaffinity(0)) if options.workers is None else options.workers
  if workers < 1:
    raise ConfigError(f'--workers={workers} is not a number of processes: give 1 or more')
  if options.timeout is not None and not options.timeout > 0:
    raise ConfigError(f'--timeout={options.timeout} is not a time: give seconds above 0')
  source = options.source
  if source.suffix.lower() == '.csv' and not source.is_dir():
    root, splits = source.parent, [source.stem]
    if options.split not in (None, source.stem):
      raise ConfigError(f'--split={options.split} is not {source}: give its folder instead')
  else:
    root, splits = source, [options.split] if options.split else splits_of(source)
  check = Check(files_of(root, splits), options.output or root / FILE, options.quick)
  try:
    check.run(workers, options.timeout)
  except KeyboardInterrupt:
    done = len(check.found)
    print(f'{done:,} of {len(check.files):,} files are checked: run it again to resume')
    raise
  if not check.bad:
    print(f'all {len(check.files):,} files can be read')
    return 0
  print(check.table())
  print(f'{check.bad:,} of {len(check.files):,} files are bad: {check.output}')
  return 1
