# SPDX-License-Identifier: Apache-2.0
"""`vivit predict`: the most probable classes of videos."""

import argparse

from vivit_jax.cli.options import CHECKPOINT, add_command, add_facts, facts, parse_views

HELP = """
examples:
  vivit predict --checkpoint=runs/digits clip.mp4 folder/of/videos
  vivit predict --checkpoint=hf://google/vivit-b-16x2-kinetics400 --views=1x1 --json clip.mp4
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'predict',
    run,
    summary='name what videos show',
    description='Prints the most probable classes of videos, averaged over several views.',
    usage='--checkpoint=CHECKPOINT VIDEO... [--views=TxS] [--top=N] [--json]',
    epilog=HELP,
  )
  command.add_argument('videos', nargs='+', metavar='VIDEO', help='video, folder, or CSV with path')
  command.add_argument('--checkpoint', required=True, metavar='CHECKPOINT', help=CHECKPOINT)
  command.add_argument('--views', default='4x3', metavar='TxS', help='temporal x spatial (4x3)')
  command.add_argument('--top', type=int, default=5, metavar='N', help='classes per video (5)')
  command.add_argument('--json', action='store_true', help='print JSON instead of a table')
  add_facts(command)


def run(options: argparse.Namespace) -> int:
  """Runs `vivit predict`; 1 where a video could not be read."""
  from vivit_jax.inference.predict import run
  from vivit_jax.weights.pretrained import load_pretrained

  views = parse_views(options.views)
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  stride = options.stride
  return run(
    pretrained,
    options.videos,
    views=views,
    top=options.top,
    stride=stride,
    as_json=options.json,
  )
