# SPDX-License-Identifier: Apache-2.0
"""`vivit explain`: attention maps."""

import argparse
from pathlib import Path

from vivit_jax.cli.options import add_checkpoint, add_command, facts

HELP = """
Explains the central clip of the video. By default the map is attention rollout: which parts of the
clip reach the classifier, for no particular class. With --class it is the absolute gradient of one
class: which parts would change its logit. The color scale is the same for the whole clip, so frames
can be compared. Writes NAME.mp4, NAME.png (frames above, map below) and NAME.npy (the map).

examples:
  vivit explain runs/digits clip.mp4 --output=why
  vivit explain runs/digits clip.mp4 --class=left --output=why_left
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'explain',
    run,
    summary='show what a model attends to in space and time',
    description='Writes an attention map over the frames of a video.',
    usage='CHECKPOINT VIDEO --output=FOLDER [--class=LABEL]',
    epilog=HELP,
  )
  add_checkpoint(command)
  command.add_argument('video', type=Path, metavar='VIDEO', help='a video file')
  command.add_argument('--output', type=Path, required=True, metavar='FOLDER', help='output folder')
  command.add_argument(
    '--class',
    dest='label',
    metavar='LABEL',
    help='explain this class by its gradient (default: rollout)',
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command."""
  import io

  import numpy as np

  from vivit_jax.data.video.reader import DecodeError
  from vivit_jax.errors import ConfigError, DataError
  from vivit_jax.files import replace_file
  from vivit_jax.inference.explain import Explainer
  from vivit_jax.weights.pretrained import load_pretrained

  target = options.output / options.video.stem
  for suffix in ('.mp4', '.png', '.npy'):
    if target.with_name(target.name + suffix).exists():
      raise ConfigError(f'{target}{suffix} exists: give another --output or delete it first')
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  explainer = Explainer(pretrained, options.label, stride=options.stride)
  try:
    found = explainer.explain(options.video)
  except DecodeError as error:
    raise DataError(str(error)) from None
  options.output.mkdir(parents=True, exist_ok=True)
  array = io.BytesIO()
  np.save(array, found.grid)
  for suffix, content in (('.mp4', found.mp4()), ('.png', found.png()), ('.npy', array.getvalue())):
    replace_file(target.with_name(target.name + suffix), content)
  what = 'attention rollout' if found.of is None else f'absolute gradient of {found.of}'
  start, end = found.seconds
  print(f'{what} of {start:.2f} s to {end:.2f} s: {target}.mp4, .png and .npy')
  for head, best in found.heads.items():
    print(f'{head}: ' + ', '.join(f'{label} {share:.1%}' for label, share in best))
  return 0
