# SPDX-License-Identifier: Apache-2.0
"""Section 4.2: overfitting of the models with few training videos, with equal steps."""

# Run from the repository root: python experiments/small_data.py [--help]
# An interrupted one goes on where it was when it is run again.

from collections.abc import Sequence

from matplotlib.figure import Figure

import factorisations
from draw import curves
from markdown_table import markdown
from publish import Experiment, Plan, held, main, spread, values
from sweep import Row, Run, Test, repeat

SIZES = (100, 400)  # training videos, beside all of them
ALL = 1600
TESTS = (Test('train', split='train'),)
NAMES = ('spatio_temporal', 'factorised_encoder')


def runs(plan: Plan) -> list[Run]:
  """Returns both models on each number of videos; those on all are runs of `factorisations`."""
  found = []
  for name in NAMES:
    settings = (*plan.base, *factorisations.MODELS[name][0])
    found += repeat(name, plan.seeds, settings, TESTS)
    for size in SIZES:
      few = f'--config.data.moving_digits.train_videos={size}'
      found += repeat(f'{name} {size}', plan.seeds, (*settings, few), TESTS)
  return found


def accuracies(rows: Sequence[Row], test: str) -> dict[str, dict[float, list[float]]]:
  """Returns by model and number of videos the verb top-1 of each seed, in percent."""
  found: dict[str, dict[float, list[float]]] = {}
  for name in NAMES:
    called = {**{f'{name} {size}': size for size in SIZES}, name: ALL}
    found[name] = {called[run]: values(rows, run, test, 'verb') for run in held(rows, called)}
  return found


def table(rows: Sequence[Row]) -> str:
  """Returns test and training accuracy, and their distance."""
  train, test = accuracies(rows, 'train'), accuracies(rows, 'report')
  lines = []
  for name in NAMES:
    for size in test[name]:
      gaps = [a - b for a, b in zip(train[name][size], test[name][size], strict=True)]
      lines.append([name, f'{size:g}', *map(spread, (train[name][size], test[name][size], gaps))])
  return markdown(('model', 'training videos', 'train verb %', 'test verb %', 'gap'), lines)


def plot(rows: Sequence[Row]) -> Figure:
  """Returns training and test accuracy against the number of videos."""
  train, test = accuracies(rows, 'train'), accuracies(rows, 'report')
  return curves(
    {
      'verb top-1 on test videos, %': ('training videos', test),
      'verb top-1 on training videos, %': ('training videos', train),
    },
    'Fewer training videos, equal steps (mean and range of the seeds)',
    log=True,
  )


EXPERIMENT = Experiment('small_data', runs, table, plot)

if __name__ == '__main__':
  main(EXPERIMENT, __doc__)
