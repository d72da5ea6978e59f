# SPDX-License-Identifier: Apache-2.0
"""`vivit predict`: predicts the classes of videos."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import CHECKPOINT, add_command, add_facts, facts, parse_views

HELP = """
examples:
  vivit predict --checkpoint=runs/digits clip.mp4 folder/of/videos
  vivit predict --checkpoint=hf://google/vivit-b-16x2-kinetics400 --views=1x1 --json clip.mp4
  vivit predict --checkpoint=runs/digits --output=predictions.parquet folder/of/videos
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'predict',
    run,
    summary='predict the classes of videos',
    description='Prints the most probable classes of videos, averaged over several views.',
    usage='--checkpoint=CHECKPOINT VIDEO... [--views=TxS] [--top=N] [--json | --output=FILE]',
    epilog=HELP,
  )
  command.add_argument('videos', nargs='+', metavar='VIDEO', help='video, folder, or CSV with path')
  command.add_argument('--checkpoint', required=True, metavar='CHECKPOINT', help=CHECKPOINT)
  command.add_argument(
    '--views', metavar='TxS', help='temporal x spatial (default: those of the checkpoint, or 4x3)'
  )
  command.add_argument('--top', type=int, default=5, metavar='N', help='classes per video (5)')
  command.add_argument(
    '--output',
    type=Path,
    metavar='FILE',
    help='instead of printing, write a new .csv or .parquet file with the probability of every '
    'class',
  )
  command.add_argument('--json', action='store_true', help='print JSON instead of a table')
  add_facts(command)


def run(options: argparse.Namespace) -> int:
  """Runs the command; returns 1 if a video could not be read."""
  from vivit_jax.inference.predict import run
  from vivit_jax.weights.pretrained import load_pretrained

  views = parse_views(options.views) if options.views else None
  if options.json and options.output:
    options.command.error('--json and --output say where to write: give one of them')
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  stride = options.stride
  return run(
    pretrained,
    options.videos,
    views=views,
    top=options.top,
    stride=stride,
    as_json=options.json,
    output=options.output,
  )
