# SPDX-License-Identifier: Apache-2.0
"""Is it time that a model of moving digits learns? The same training on one frame, repeated."""

# Run from the repository root: python experiments/control.py [--steps=N] [--out=FOLDER]
# An interrupted one goes on where it was when it is run again.

import argparse
import json
from pathlib import Path

from factorisations import CONFIG, measure, table  # type: ignore[import-not-found]

CHANCE, MARGIN = 1 / 8, 0.05  # eight motions; of top-1


def main() -> None:
  """Runs what is not done yet, prints both and whether the control stays near chance."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--steps', type=int, help="of each run (default: the config's)")
  parser.add_argument(
    '--out',
    type=Path,
    default=Path('runs/control'),
    help='folder of the runs and control.json (default: %(default)s)',
  )
  options = parser.parse_args()
  settings = [f'--config={CONFIG}']
  if options.steps is not None:
    settings.append(f'--config.train.steps={options.steps}')
  rows = []
  for name, overrides in (
    ('one frame, repeated', ['--config.data.freeze_time=True']),
    ('video', []),
  ):
    print(name, flush=True)
    folder = options.out / name.split(',')[0].replace(' ', '_')
    rows.append(measure(name, [*settings, *overrides], folder))
  (options.out / 'control.json').write_text(json.dumps(rows, indent=1) + '\n')
  print(f'\n{table(rows)}')
  away = abs(rows[0]['top1'] - CHANCE)
  verdict = 'within' if away <= MARGIN else 'MORE THAN'
  print(
    f'\nOne frame is {100 * away:.1f} points from chance ({100 * CHANCE:.1f} %): '
    f'{verdict} {100 * MARGIN:.0f}'
  )
  if away > MARGIN:
    raise SystemExit(1)


if __name__ == '__main__':
  main()
