# SPDX-License-Identifier: Apache-2.0
"""`vivit data index`: creates manifests from a folder of videos or official annotation files."""

import argparse
import re
import shlex
import typing
from pathlib import Path

from vivit_jax.cli.options import add_command

if typing.TYPE_CHECKING:
  from vivit_jax.data.index.annotations import Index

HELP = """
examples:
  vivit data index FOLDER                   FOLDER/train/<class>/*.mp4, or FOLDER/<class>/*.mp4
  vivit data index videos.csv               path,label[,start][,end][,split]
  vivit data index EPIC-KITCHENS --annotations=epic-kitchens-100-annotations
  vivit data index UCF-101 --annotations=ucfTrainTestlist --format=ucf101:2

formats: folder (one's own), unlabeled (all videos of a folder, for masked pretraining), kinetics,
something_something, epic_kitchens, moments_in_time, ucf101
(ucf101:2 and ucf101:3 for its other two divisions)

docs/data.md describes the folders of each format.
"""


RECIPES = {  # by format and number of classes per head; a subset may have fewer
  ('kinetics', (400,)): 'kinetics400',
  ('kinetics', (600,)): 'kinetics600',
  ('something_something', (174,)): 'something_something_v2',
  ('epic_kitchens', (97, 300)): 'epic_kitchens',
  ('moments_in_time', (339,)): 'moments_in_time',
  ('ucf101', (101,)): 'ucf101',
}


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'data index',
    run,
    summary='create manifests for a folder of videos or a public data set',
    description=(
      'Writes train.csv, validation.csv, test.csv and classes/ for `vivit train`.\n'
      'Annotated videos that do not exist are left out and listed in missing.csv.'
    ),
    usage='FOLDER [--format=FORMAT] [--annotations=FOLDER] [--output=FOLDER] [--force]',
    epilog=HELP,
  )
  command.add_argument(
    'source', metavar='FOLDER', help='folder of the videos, or a CSV that lists them'
  )
  command.add_argument(
    '--format', metavar='FORMAT', help='format of the annotations (default: detected)'
  )
  command.add_argument(
    '--annotations',
    type=Path,
    metavar='FOLDER',
    help='folder of the annotation files (default: FOLDER)',
  )
  command.add_argument(
    '--output', type=Path, metavar='FOLDER', help='output folder (default: FOLDER)'
  )
  command.add_argument('--force', action='store_true', help='replace existing manifests')


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  from vivit_jax.data.index.formats import FORMATS, OWN, UNLABELED, read_index
  from vivit_jax.data.index.write import MISSING, as_table, write
  from vivit_jax.errors import ConfigError, nearest, printable

  known = [*FORMATS, OWN, UNLABELED]
  if options.format not in (None, *known):
    raise ConfigError(f'--format={options.format} is unknown{nearest(options.format, known)}')
  form, index, folder = read_index(Path(options.source), options.format, options.annotations)
  output = options.output or folder
  write(index, folder, output, options.force)
  print(f'{form}: {printable(str(folder))}\n{as_table(index)}')
  missing = sum(row.path is None for row in index.rows)
  if missing:
    print(printable(f'{missing:,} annotated videos do not exist: {output / MISSING}'))
  print(f'\n{printable(_next_command(form, index, output))}')
  return 0


def _next_command(form: str, index: 'Index', output: Path) -> str:
  """Returns the command to train on the data: its recipe if it is complete, or else finetune."""
  if not index.classes:
    root = shlex.quote(str(output))
    return f'vivit train --config=pretrain:B/16x2 --config.data.root={root} --workdir=RUN'
  counts = tuple(len(names) for names in index.classes.values())
  recipe = RECIPES.get((form.partition(':')[0], counts))
  words = [f'vivit train --config={recipe or "finetune"}']
  words.append(f'--config.data.root={shlex.quote(str(output))}')
  heads = tuple(index.classes)
  if recipe is None and index.multi_label:
    words.append('--config.task.kind=multi_label')
  if recipe is None and heads != ('label',):
    names = f"('{heads[0]}',)" if len(heads) == 1 else str(heads).replace(' ', '')
    plain = re.fullmatch(r"[\w(), '.-]+", names) is not None  # shlex would escape every quote
    quoted = f'"{names}"' if plain else shlex.quote(names)
    words.append(f'--config.task.heads={quoted}')
  if recipe is None and heads == ('verb', 'noun'):
    words.append('--config.task.joint=action')
  return ' '.join([*words, '--config.init.checkpoint=WEIGHTS --workdir=RUN'])
