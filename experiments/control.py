# SPDX-License-Identifier: Apache-2.0
"""Control experiment on moving digits: the same training with one repeated frame per clip."""

# Run from the repository root: python experiments/control.py [--steps=N] [--out=FOLDER]
# An interrupted one goes on where it was when it is run again.

import argparse
import sys
from pathlib import Path

from markdown_table import markdown
from publish import values
from sweep import Row, Run, sweep
from vivit_jax.errors import UserError
from vivit_jax.train.stop import Stopped

CHANCE, MARGIN = 12.5, 5.0  # eight motions; percent of top-1
CONFIG = '--config=configs/moving_digits.py'
RUNS = (
  Run('one frame, repeated', 0, (CONFIG, '--config.data.freeze_time=True')),
  Run('video', 0, (CONFIG,)),
)


def table(rows: list[Row]) -> str:
  """Returns the accuracy of both."""
  lines = [
    [row['name'], f'{row["loss"]:.3f}', f'{values(rows, row["name"], "report", "verb")[0]:.1f}']
    for row in rows
  ]
  return markdown(('training on', 'final loss', 'test top1 %'), lines)


def main() -> None:
  """Runs what is not done yet, prints both and whether the control stays near chance."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--steps', type=int, help="of each run (default: the config's)")
  parser.add_argument(
    '--out', type=Path, default=Path('runs/control'), help='folder of the runs (%(default)s)'
  )
  options = parser.parse_args()
  steps = () if options.steps is None else (f'--config.train.steps={options.steps}',)
  runs = [Run(run.name, run.seed, (*run.settings, *steps)) for run in RUNS]
  try:
    rows = sweep(runs, options.out)
  except (UserError, Stopped) as error:
    print(f'control: {error}', file=sys.stderr)
    raise SystemExit(130 if isinstance(error, Stopped) else 1) from None
  print(f'\n{table(rows)}')
  away = abs(values(rows, RUNS[0].name, 'report', 'verb')[0] - CHANCE)
  verdict = 'within' if away <= MARGIN else 'MORE THAN'
  print(f'One frame is {away:.1f} points from chance ({CHANCE} %): {verdict} {MARGIN:.0f}')
  if away > MARGIN:
    raise SystemExit(1)


if __name__ == '__main__':
  main()
