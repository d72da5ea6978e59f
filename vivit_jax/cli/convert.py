# SPDX-License-Identifier: Apache-2.0
"""`vivit convert`: writes a checkpoint in another format."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import CHECKPOINT, add_command, add_facts, facts, use_cpu
from vivit_jax.errors import ConfigError, printable

HELP = """
example:
  vivit convert vivit_base.msgpack vivit_base.safetensors --to=safetensors --frames=32
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'convert',
    run,
    summary='write a checkpoint in another format',
    description='Converts a checkpoint of any format for another library or for training.',
    usage='SOURCE TARGET --to=FORMAT',
    epilog=HELP,
  )
  command.add_argument('source', metavar='SOURCE', help=CHECKPOINT)
  command.add_argument('target', metavar='TARGET', help='file or folder to write; must not exist')
  command.add_argument(
    '--to',
    required=True,
    choices=('huggingface', 'safetensors', 'orbax'),
    metavar='FORMAT',
    help='huggingface (a folder for transformers), safetensors (one file, all models) or orbax (a '
    'workdir like that of `vivit train`)',
  )
  add_facts(command)


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  use_cpu()
  from vivit_jax.weights import export, huggingface
  from vivit_jax.weights.pretrained import load_pretrained
  from vivit_jax.weights.runs import write_run

  target = Path(options.target)
  if target.exists():
    raise ConfigError(f'{target} exists: give another TARGET, or delete it first')
  writers = {
    'huggingface': huggingface.write,
    'safetensors': export.write,
    'orbax': write_run,
  }
  source = load_pretrained(options.source, **facts(options)).source
  writers[options.to](source, target)
  kind = f'{source.format}, {source.model.attention}'
  print(printable(f'{options.source} ({kind}) -> {target} ({options.to})'))
  return 0
