# SPDX-License-Identifier: Apache-2.0
"""All factorisations on moving digits, a few hundred steps each, then two more kinds of task."""

# Run from the repository root: python experiments/factorisations.py [--steps=300] [--out=FOLDER]
# An interrupted one goes on where it was when it is run again.

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = 'configs/moving_digits.py'


@dataclasses.dataclass(frozen=True)
class Run:
  """One line of the table."""

  name: str
  variant: str
  overrides: tuple[str, ...] = ()


RUNS = (
  Run('spatio_temporal', 'spatio_temporal'),
  Run('factorised_encoder', 'factorised_encoder'),
  Run('factorised_self_attention', 'factorised_self_attention'),
  Run('factorised_dot_product', 'factorised_dot_product'),
  Run('average over time', 'factorised_encoder', ('--config.model.temporal_layers=0',)),
  Run('verb + noun = action', 'factorised_encoder,verb_noun'),
  Run('tags (multi-label)', 'factorised_encoder,tags'),
)


def vivit(*arguments: str, quiet: bool = False) -> str:
  """Runs the command, shows what it prints as it comes unless quiet, and returns it."""
  process = subprocess.Popen(
    [sys.executable, '-m', 'vivit_jax', *arguments], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout is not None
  lines = []
  for line in process.stdout:
    lines.append(line)
    if not quiet:
      print('  ' + line, end='', flush=True)
  if process.wait():
    raise SystemExit(f'vivit {" ".join(arguments)} ended with exit code {process.returncode}')
  return ''.join(lines)


def measure(name: str, settings: list[str], workdir: Path) -> dict[str, Any]:
  """Trains and tests a run, or goes on with it, and returns what the tables show.

  Seconds include start, compilation and testing, and add up over interruptions.
  """
  result = workdir / 'experiment.json'
  if result.exists():
    found = json.loads(result.read_text())
    if found['settings'] != settings:
      raise SystemExit(f'{workdir} holds a run with other settings: give another --out')
    return found
  workdir.mkdir(parents=True, exist_ok=True)
  clock = workdir / 'seconds.txt'
  before = float(clock.read_text()) if clock.exists() else 0.0
  began = time.monotonic()
  try:
    vivit('train', *settings, f'--workdir={workdir}')
  finally:
    seconds = before + time.monotonic() - began
    clock.write_text(str(seconds))
  report = json.loads((workdir / 'report.json').read_text())
  metrics = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  found = {
    'name': name,
    'settings': settings,
    'parameters': json.loads(vivit('inspect', *settings, '--json', quiet=True))['parameters'],
    'loss': [row['loss'] for row in metrics if 'loss' in row][-1],
    'seconds': seconds,
    **{key: report[key] for key in ('top1', 'mAP', 'videos', 'step') if key in report},
    'heads': {head: values.get('top1') for head, values in report['tasks'].items()},
  }
  result.write_text(json.dumps(found, indent=1) + '\n')
  return found


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the results for reading."""
  head = f'{"model":27}{"parameters":>11}{"final loss":>12}{"test":>16}{"seconds":>9}'
  lines = [head, '-' * len(head)]
  for row in rows:
    score = f'top1 {100 * row["top1"]:.1f} %' if 'top1' in row else f'mAP {100 * row["mAP"]:.1f} %'
    lines.append(
      f'{row["name"]:27}{row["parameters"]:11,}{row["loss"]:12.3f}{score:>16}{row["seconds"]:9.0f}'
    )
    if len(row['heads']) > 1:
      parts = ', '.join(f'{name} {100 * top1:.1f} %' for name, top1 in row['heads'].items())
      lines.append(f'    {parts}')
  return '\n'.join(lines)


def main() -> None:
  """Runs what is not done yet and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--steps', type=int, default=300, help='of each run (default: %(default)s)')
  parser.add_argument(
    '--out',
    type=Path,
    default=Path('runs/factorisations'),
    help='folder of the runs and factorisations.json (default: %(default)s)',
  )
  options = parser.parse_args()
  rows = []
  for run in RUNS:
    print(f'{run.name}: {options.steps} steps', flush=True)
    settings = [
      f'--config={CONFIG}:{run.variant}',
      f'--config.train.steps={options.steps}',
      *run.overrides,
    ]
    folder = run.name.translate(str.maketrans(' +=', '___', '()'))
    rows.append(measure(run.name, settings, options.out / folder))
  (options.out / 'factorisations.json').write_text(json.dumps(rows, indent=1) + '\n')
  print(f'\n{table(rows)}')


if __name__ == '__main__':
  main()
