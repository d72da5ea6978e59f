# SPDX-License-Identifier: Apache-2.0
"""What features know: nearest neighbors of test videos, by the motion and by the digit."""

# Run from the repository root, on a run of configs/moving_digits.py:
# python experiments/neighbors.py runs/moving_digits

import sys

import numpy as np
from tqdm import tqdm

import vivit_jax as vivit
from markdown_table import markdown
from vivit_jax.config.schema import MovingDigits
from vivit_jax.data.moving_digits import NOUNS, VERBS, digit_videos, draw


def main() -> None:
  """Prints how often the nearest other video has the same label."""
  model = vivit.load(sys.argv[1])
  samples = digit_videos(MovingDigits(), 'test')
  features = np.stack([model.features(draw(sample)).values for sample in tqdm(samples)])
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  similar = features @ features.T
  np.fill_diagonal(similar, -np.inf)
  nearest = similar.argmax(axis=1)
  rows = []
  for name, labels, classes in (
    ('motion', [sample.verb for sample in samples], VERBS),
    ('digit', [sample.noun for sample in samples], NOUNS),
  ):
    same = np.mean([labels[k] == labels[n] for k, n in enumerate(nearest)])
    rows.append([name, f'{100 * same:.1f}', f'{100 / len(classes):.1f}'])
  print(markdown(('label of the nearest video', 'the same, %', 'chance, %'), rows))


if __name__ == '__main__':
  main()
