# SPDX-License-Identifier: Apache-2.0
"""`vivit data bench`: measures the throughput of the input pipeline against a device's demand."""

import argparse
import json
import math
import re

from vivit_jax.cli.options import add_command
from vivit_jax.errors import ConfigError

HELP = """
First, the stages of a clip are timed in one thread: fetch (read the bytes), open (and find the
frames), seek, decode, crop (with resize and conversion to RGB), augment, batch (copy into the
batch), other, and transfer to the device. Then batches are read as in `vivit train`.

examples:
  vivit data bench --config=kinetics400:B/16x2 --config.data.root=DATA --workers=1,2,4
  vivit data bench --config=moving_digits --simulate-latency=50ms
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'data bench',
    run,
    summary='measure the speed of the input pipeline',
    description='Measures the input pipeline of a config, by stage and with worker processes.',
    usage=(
      '--config=CONFIG [--config.x=y ...] [--clips=N] [--workers=1,2] [--simulate-latency=50ms]'
      ' [--device-rate=CLIPS_PER_S] [--json]'
    ),
    epilog=HELP,
  )
  command.add_argument(
    '--clips', type=int, default=64, metavar='N', help='clips per measurement (64)'
  )
  command.add_argument(
    '--workers', default='1,2', metavar='N,N', help='numbers of processes; 0 = threads (1,2)'
  )
  command.add_argument(
    '--simulate-latency', default='0ms', metavar='TIME', help='added per video, e.g. 50ms or 0.2s'
  )
  command.add_argument(
    '--device-rate',
    type=float,
    default=230.0,  # B/16x2 factorised encoder on one H100
    metavar='CLIPS_PER_S',
    help='clips/s of one device (230: ViViT-B/16x2 factorised encoder on an H100)',
  )
  command.add_argument('--json', action='store_true', help='print JSON instead of tables')


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  from vivit_jax.config.file import load
  from vivit_jax.data.bench import as_json, as_text, bench, delayed
  from vivit_jax.data.splits import open_split, with_classes
  from vivit_jax.weights.architecture import with_architecture

  if options.clips < 8:
    raise ConfigError(f'--clips={options.clips} is less than 8: too few for a measurement')
  if not 0 < options.device_rate < math.inf:
    raise ConfigError(f'--device-rate={options.device_rate} is not a number of clips per second')
  workers, latency = parse_workers(options.workers), parse_seconds(options.simulate_latency)
  config = load(options.settings)
  if config.init.checkpoint is not None:  # which tells the clip
    config = with_architecture(config)
  config = with_classes(config)
  manifest = open_split(config, 'train')
  if latency:
    manifest = delayed(manifest, latency)
  result = bench(
    manifest,
    config,
    clips=options.clips,
    workers=workers,
    demand=options.device_rate,
    latency=latency,
  )
  print(json.dumps(as_json(result), indent=1) if options.json else as_text(result))
  return 0


def parse_workers(text: str) -> tuple[int, ...]:
  """Parses a list of numbers of processes such as `1,2,4`."""
  if re.fullmatch(r'\d{1,3}(,\d{1,3})*', text) is None:
    raise ConfigError(f'--workers={text} is not a list of numbers, e.g. 1,2,4')
  return tuple(int(count) for count in text.split(','))


def parse_seconds(text: str) -> float:
  """Parses a time such as `50ms` or `0.05s` and returns seconds."""
  match = re.fullmatch(r'(\d+(?:\.\d+)?)(ms|s)', text)
  if match is None:
    raise ConfigError(f'--simulate-latency={text} is not a time: give e.g. 50ms or 0.2s')
  return float(match[1]) / (1000 if match[2] == 'ms' else 1)
