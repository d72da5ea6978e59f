# SPDX-License-Identifier: Apache-2.0
"""Table 4: regularization added one at a time, on few training videos, as on Epic-Kitchens."""

# Run from the repository root: python experiments/regularisers.py [--help]
# An interrupted one goes on where it was when it is run again. The image model that the second and
# all later rows start from is the one of tubelets.py.

from collections.abc import Sequence

from matplotlib.figure import Figure

from draw import dots
from markdown_table import markdown
from publish import SMALL, VERB_NOUN, Experiment, Plan, held, main, spread, values
from sweep import Row, Run, Test, repeat
from tubelets import FROM_IMAGE, IMAGE_MODEL

# What each row adds to the one before, and the paper's Epic-Kitchens action top-1 in percent.
# Values are its own for Epic-Kitchens (Table 7); the flip stays off: left and right are classes.
ADDED: dict[str, tuple[tuple[str, ...], float]] = {
  'random crop': ((), 38.4),
  '+ image model': ((FROM_IMAGE, '--config.model.tubelet_init=central_frame'), 39.6),
  '+ stochastic depth': (('--config.model.drop_path=0.2',), 40.2),
  '+ RandAugment': (
    ('--config.augment.rand_augment.layers=2', '--config.augment.rand_augment.magnitude=15'),
    41.1,
  ),
  '+ label smoothing': (('--config.train.label_smoothing=0.2',), 43.1),
  '+ mixup': (('--config.mix.mixup=0.1',), 43.7),
}
HEADS = ('verb', 'noun', 'action')
TESTS = (Test('train', split='train'),)
FEW = ('--config.data.moving_digits.train_videos=160',)


def runs(plan: Plan) -> list[Run]:
  """Returns the image model, then each row with each seed."""
  found, settings = [IMAGE_MODEL], plan.base
  for name, (added, _) in ADDED.items():
    settings = (*settings, *added)
    found += repeat(name, plan.seeds, settings, TESTS)
  return found


def table(rows: Sequence[Row]) -> str:
  """Returns accuracies beside the paper's."""
  lines = [
    [
      name,
      *(spread(values(rows, name, 'report', head)) for head in HEADS),
      spread(values(rows, name, 'train', 'action')),
      f'{ADDED[name][1]:.1f}',
    ]
    for name in held(rows, ADDED)
  ]
  head = ('added', *(f'test {h} %' for h in HEADS), 'train action %', 'paper: Epic action %')
  return markdown(head, lines)


def plot(rows: Sequence[Row]) -> Figure:
  """Returns verb, noun and action beside the paper's action."""
  names = held(rows, ADDED)
  return dots(
    {
      **{
        f'{head} top-1 on test videos, %': {n: values(rows, n, 'report', head) for n in names}
        for head in HEADS
      },
      'paper: Epic-Kitchens action, %': {n: [ADDED[n][1]] for n in names},
    },
    'Table 4: regularisers added one at a time, few videos (each dot a seed, | their mean)',
  )


EXPERIMENT = Experiment(
  'regularisers', runs, table, plot, small=(*SMALL, *VERB_NOUN, *FEW, '--config.train.steps=300')
)

if __name__ == '__main__':
  main(EXPERIMENT, __doc__)
