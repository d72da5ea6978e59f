# SPDX-License-Identifier: Apache-2.0
"""`vivit features`: writes features of videos to NumPy or Parquet files."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_checkpoint, add_command, facts

HELP = """
Writes one file per video and index.csv, with the result for each video, to FOLDER. Windows cover
the whole video; each row has its start and end in seconds. Run the same command again to resume:
finished videos are not read again. Exit code 1 if a video could not be read.

levels:
  clip    one row [D] per window: the input of the classifier
  frames  one row [D] per tubelet of frames
  tokens  one row [S, D] per tubelet: its patches, row by row

examples:
  vivit features runs/digits VIDEOS --output=features
  vivit features runs/digits clip.mp4 --level=frames --hop=0.5 --to=parquet --output=features
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'features',
    run,
    summary='write features of videos',
    description='Writes features of videos, with their times, to NumPy or Parquet files.',
    usage='CHECKPOINT VIDEO... --output=FOLDER [--level=L] [--window=S] [--hop=S] [--to=FORMAT]',
    epilog=HELP,
  )
  add_checkpoint(command)
  command.add_argument('videos', nargs='+', metavar='VIDEO', help='video, folder, or CSV with path')
  command.add_argument('--output', type=Path, required=True, metavar='FOLDER', help='output folder')
  command.add_argument(
    '--level',
    default='clip',
    choices=('clip', 'frames', 'tokens'),
    metavar='LEVEL',
    help='clip, frames or tokens (%(default)s)',
  )
  command.add_argument(
    '--window',
    type=float,
    metavar='S',
    help="seconds per window (default: by the checkpoint's stride)",
  )
  command.add_argument(
    '--hop', type=float, metavar='S', help='seconds between windows (default: one window)'
  )
  command.add_argument(
    '--to',
    default='npy',
    choices=('npy', 'parquet'),
    metavar='FORMAT',
    help='npy or parquet (%(default)s)',
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command; returns 1 if a video could not be read."""
  from vivit_jax.data.index.videos import collect_videos
  from vivit_jax.distributed.launch import keep_compiled_programs
  from vivit_jax.errors import ConfigError
  from vivit_jax.inference.clock import check_hop
  from vivit_jax.inference.feature_files import Store, write_all
  from vivit_jax.inference.features import Extractor
  from vivit_jax.weights.pretrained import load_pretrained

  stride = options.stride
  if stride is not None and options.window is not None:
    raise ConfigError(f'--stride={stride} and --window={options.window}: give one of them')
  keep_compiled_programs()
  videos = collect_videos(options.videos)
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  extractor = Extractor(pretrained, options.level, options.window, options.hop, stride)
  check_hop(extractor.protocol, options.hop)
  store = Store(options.output, options.to, extractor.settings(options.checkpoint, pretrained.step))
  failed = write_all(extractor, videos, store)
  for path, reason in failed:
    print(f'{path}: {reason}')
  if failed:
    print(f'{len(failed)} of {len(videos)} videos could not be read: see {store.index}')
  return int(bool(failed))
