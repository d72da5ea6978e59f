# SPDX-License-Identifier: Apache-2.0
"""`vivit data build`: prepares the videos of manifests for training."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_command
from vivit_jax.errors import ConfigError

HELP = """
All frames of the videos are checked. The videos are copied (or re-encoded, with the options below)
into ArrayRecord shards, which tensorflow-datasets can also read, and verified. If the command is
interrupted, run it again to resume.

examples:
  vivit data build kinetics400 kinetics400-256 --short-side=256 --key-frames=12
  vivit train --config=kinetics400 --config.data.root=kinetics400-256 --workdir=runs/k400
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'data build',
    run,
    summary='prepare videos for training: check, encode, write shards',
    description='Prepares the videos of a folder of manifests for --config.data.root.',
    usage='SOURCE_ROOT TARGET [--short-side=N] [--key-frames=N] [--max-bad-fraction=FRACTION]',
    epilog=HELP,
  )
  command.add_argument('source', metavar='SOURCE_ROOT', help='folder with train.csv and classes/')
  command.add_argument('target', metavar='TARGET', help='folder to write')
  command.add_argument(
    '--short-side', type=int, metavar='N', help='re-encode with a shorter side of at most N pixels'
  )
  command.add_argument(
    '--key-frames',
    type=int,
    metavar='N',
    help='re-encode with a key frame every N frames (12 if re-encoding for another reason)',
  )
  command.add_argument(
    '--max-bad-fraction',
    type=float,
    default=0.1,
    metavar='FRACTION',
    help='stop if more than this fraction of the videos cannot be read (0.1)',
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  from vivit_jax.data.prepare.build import build
  from vivit_jax.data.prepare.encode import Encoding

  for name, least in (('short_side', 16), ('key_frames', 1)):
    value = getattr(options, name)
    if value is not None and value < least:
      raise ConfigError(f'--{name.replace("_", "-")}={value} is less than {least}')
  encoding = Encoding(options.short_side, options.key_frames)
  print(build(Path(options.source), Path(options.target), encoding, options.max_bad_fraction))
  return 0
