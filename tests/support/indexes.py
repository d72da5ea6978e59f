# SPDX-License-Identifier: Apache-2.0
"""What tests of `vivit data index` read back, and runs on its manifests."""

import csv

from vivit_jax.cli.main import main
from vivit_jax.config.file import load

TINY = {
  'model.layers': 1,
  'model.temporal_layers': 1,
  'model.width': 16,
  'model.mlp_dim': 32,
  'model.heads': 2,
  'clip.frames': 4,
  'clip.height': 32,
  'clip.width': 32,
  'train.batch_size': 4,
  'train.steps': 5,
  'evaluate.batch_size': 4,
  'evaluate.temporal_views': 1,
}


def finetune(root, **overrides):
  """Returns the tiny form of the command that `vivit data index` prints."""
  values = {**TINY, 'data.root': root}
  values |= {name.replace('__', '.'): value for name, value in overrides.items()}
  arguments = [f'--config.{name}={value}' for name, value in values.items()]
  return load(['--config=configs/finetune.py:Ti/16x2', *arguments])


def rows(file):
  """Returns the rows of a CSV file, header first."""
  with file.open(newline='') as handle:
    return list(csv.reader(handle))


def contents(folder):
  """Returns what `vivit data index` wrote: text by path."""
  files = [*folder.glob('*.csv'), *folder.glob('classes/*')]
  return {str(file.relative_to(folder)): file.read_text() for file in files}


def mistake(capsys, *arguments):
  """Returns the one line that the command answers."""
  assert main(['data', 'index', *map(str, arguments)]) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1
  assert 'Traceback' not in lines[0]
  return lines[0]
