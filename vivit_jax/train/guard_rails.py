# SPDX-License-Identifier: Apache-2.0
"""What goes wrong silently when small data meets a large model, said before the first step."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from vivit_jax.config import Config
from vivit_jax.data.augmentation.mirror import mirrored_classes
from vivit_jax.data.manifest import Manifest

# ViViT-B has 370 per video of Kinetics-400, and the paper found even that too few to start from
# scratch (section 3.4); the small model of configs/moving_digits.py has 300 per video and learns.
PARAMETERS_PER_VIDEO = 1000
SHOWN = 5  # names in one line
ROTATION = re.compile(r'(?<![a-z])(?:anti|counter)[-_ ]?(?=clockwise)', re.IGNORECASE)


def hints(config: Config, data: Manifest, params: Any) -> list[str]:
  """Returns one line, with its remedy, for each setting that will probably disappoint.

  Args:
    config: of the run.
    data: its training videos.
    params: of the model, arrays or shapes.
  """
  found = []
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  videos = len(data.videos)
  if config.init.checkpoint is None and count > PARAMETERS_PER_VIDEO * videos:
    found.append(
      f'{count / 1e6:.1f} M parameters start from scratch on {videos} videos and will overfit: '
      'give weights as --config.init.checkpoint=CHECKPOINT (docs/weights.md), or a smaller model'
    )
  if config.train.learning_rate == 0:
    found.append("config.train.learning_rate=0 learns nothing: give the recipe's")
  return [*found, *_mirrored(config, data), *_without_examples(config, data)]


def _mirrored(config: Config, data: Manifest) -> Iterator[str]:
  """Yields a line for each head with classes that a mirrored clip would take for each other."""
  if config.augment.flip == 'off':
    return
  for head, names in data.class_names.items():
    sides = [i for i, other in enumerate(mirrored_classes(names)) if other not in (None, i)]
    turns = _turns(names)
    if config.augment.flip == 'swap_labels':
      sides = []  # it exchanges them
    if sides or turns:
      remedy = 'off' if turns else 'swap_labels or off'
      yield (
        f'config.augment.flip={config.augment.flip!r} shows half of all clips mirrored, but '
        f'{len(sides) + len(turns)} classes of {head!r} differ only in direction '
        f'({_listed([names[i] for i in (*sides, *turns)])}): give --config.augment.flip={remedy}'
      )


def _turns(names: Sequence[str]) -> list[int]:
  """Returns the classes that differ from others only by clockwise and anticlockwise."""
  turned = [ROTATION.sub('', name.lower()) for name in names]
  return [i for i, name in enumerate(turned) if 'clockwise' in name and turned.count(name) > 1]


def _listed(names: Sequence[str]) -> str:
  return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')


def _without_examples(config: Config, data: Manifest) -> list[str]:
  found = []
  for column, (head, names) in enumerate(data.class_names.items()):
    if data.multi_label:
      seen = Counter(label for video in data.videos for label in video.labels)
    else:
      seen = Counter(video.labels[column] for video in data.videos)
    missing = [name for i, name in enumerate(names) if not seen[i]]
    if missing:
      found.append(
        f'{len(missing)} of {len(names)} classes of {head!r} have no training video '
        f'({_listed(missing)}): '
        f'remove them from classes/{head}.txt, or add videos'
      )
  return found
