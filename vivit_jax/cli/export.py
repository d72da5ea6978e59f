# SPDX-License-Identifier: Apache-2.0
"""`vivit export`: exports a trained model for other programs."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_checkpoint, add_command, facts

HELP = """
The exported program is verified on synthetic clips. If its logits differ by more than 0.0001,
nothing is written and the difference is printed.

formats:
  onnx       one file, plus FILE.data for parameters of a gigabyte or more
  stablehlo  a folder that needs only JAX and NumPy to run, on CPUs, GPUs and TPUs
  page       a folder for any web server: drop a video, see the top labels; no network needed

examples:
  vivit export runs/digits digits.onnx --to=onnx
  vivit export runs/digits program --to=stablehlo --batch=8 --input=float
  vivit export runs/digits site --to=page && python -m http.server -d site
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'export',
    run,
    summary='export a model: ONNX, StableHLO, or a web page',
    description='Exports a trained model as ONNX, StableHLO or a web page.',
    usage='CHECKPOINT TARGET --to=FORMAT [--batch=N|any] [--input=uint8|float]',
    epilog=HELP,
  )
  add_checkpoint(command)
  command.add_argument('target', type=Path, metavar='TARGET', help='output; must not exist')
  command.add_argument(
    '--to',
    required=True,
    choices=('onnx', 'stablehlo', 'page'),
    metavar='FORMAT',
    help='onnx, stablehlo or page',
  )
  command.add_argument('--batch', default='any', metavar='N|any', help='batch size (any)')
  command.add_argument(
    '--input',
    default='uint8',
    choices=('uint8', 'float'),
    metavar='TYPE',
    help='uint8: RGB pixels, with normalization inside (default); float: normalized values, see '
    'the metadata',
  )
  command.add_argument(
    '--runtime',
    type=Path,
    metavar='FOLDER',
    help='page: folder of the npm package onnxruntime-web (default: download it with npm)',
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  import jax

  # Does not take accelerators from a running job, and compares in full float32.
  jax.config.update('jax_platforms', 'cpu')
  from vivit_jax.errors import ConfigError
  from vivit_jax.inference.export import make_export, megabytes
  from vivit_jax.inference.formats import writer
  from vivit_jax.weights.pretrained import load_pretrained

  batch = _batch(options.batch)
  if options.to == 'page' and (batch is not None or options.input != 'uint8'):
    raise ConfigError(
      '--to=page takes neither --batch nor --input: its page calls the model itself'
    )
  if options.runtime is not None and options.to != 'page':
    raise ConfigError(f'--runtime={options.runtime} is only for --to=page')
  if options.target.exists():
    raise ConfigError(f'{options.target} exists: give another TARGET, or delete it first')
  write = writer(options.to)
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  stride = options.stride
  export = make_export(pretrained, options.input == 'uint8', batch, stride)
  runtime = (options.runtime,) if options.to == 'page' else ()
  off = write(export, options.target, *runtime)
  print(
    f'{options.checkpoint} -> {options.target} ({options.to}, {megabytes(options.target):.1f} MB): '
    f'logits are off by {off:.1g} at most'
  )
  return 0


def _batch(text: str) -> int | None:
  from vivit_jax.errors import ConfigError

  if text == 'any':
    return None
  if not text.isdecimal():
    raise ConfigError(f'--batch={text} is not a number of clips: give 1 or more, or any')
  return int(text)
