# SPDX-License-Identifier: Apache-2.0
"""What goes wrong silently when small data meets a large model, said before the first step."""

from collections import Counter
from typing import Any

import jax

from vivit_jax.config import Config
from vivit_jax.data.manifest import Manifest

# ViViT-B has 370 per video of Kinetics-400, and the paper found even that too few to start from
# scratch (section 3.4); the small model of configs/moving_digits.py has 300 per video and learns.
PARAMETERS_PER_VIDEO = 1000
SHOWN = 5  # names in one line


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
  return [*found, *_without_examples(config, data)]


def _without_examples(config: Config, data: Manifest) -> list[str]:
  found = []
  for column, (head, names) in enumerate(data.class_names.items()):
    if data.multi_label:
      seen = Counter(label for video in data.videos for label in video.labels)
    else:
      seen = Counter(video.labels[column] for video in data.videos)
    missing = [name for i, name in enumerate(names) if not seen[i]]
    if missing:
      shown = ', '.join(missing[:SHOWN]) + (', ...' if len(missing) > SHOWN else '')
      found.append(
        f'{len(missing)} of {len(names)} classes of {head!r} have no training video ({shown}): '
        f'remove them from classes/{head}.txt, or add videos'
      )
  return found
