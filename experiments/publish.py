# SPDX-License-Identifier: Apache-2.0
"""Code shared by all experiments: command line, tables, and output of results."""

import argparse
import dataclasses
import datetime
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
from matplotlib.figure import Figure

from sweep import Row, Run, finished, sweep
from vivit_jax import __version__
from vivit_jax.errors import UserError
from vivit_jax.files import replace_file, write_json
from vivit_jax.train.stop import Stopped

HERE = Path(__file__).parent
SECTION = '<!-- {} -->\n{}<!-- end -->'

# What two shared CPU cores train in half a minute; one view, so that views can be studied.
SMALL = (
  '--config=configs/moving_digits.py:factorised_encoder',
  '--config.clip.height=32',
  '--config.clip.width=32',
  '--config.augment.crop.short_side=32',
  '--config.model.layers=2',
  '--config.model.temporal_layers=1',
  '--config.model.width=64',
  '--config.model.mlp_dim=128',
  '--config.train.steps=100',
  '--config.train.evaluate_every=100000',
  '--config.data.moving_digits.validation_videos=32',
  '--config.data.moving_digits.test_videos=480',
  '--config.evaluate.temporal_views=1',
  '--config.evaluate.spatial_views=1',
)
VERB_NOUN = (
  "--config.task.heads=('verb','noun')",
  '--config.task.classes=(8,10)',
  '--config.task.joint=action',
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What an experiment is asked to do: `base` settings, to which each run adds its own."""

  base: tuple[str, ...]
  seeds: int


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A question, the runs that answer it, and how the answer is shown.

  Attributes:
    name: of its files.
    runs: of a plan.
    table: Markdown of the rows.
    plot: of the rows.
    small: the settings of all its runs, unless the command line has a config of its own.
    finish: adds to the rows what is measured on all of them together.
  """

  name: str
  runs: Callable[[Plan], list[Run]]
  table: Callable[[Sequence[Row]], str]
  plot: Callable[[Sequence[Row]], Figure]
  small: tuple[str, ...] = SMALL
  finish: Callable[[list[Row]], list[Row]] = list


def values(rows: Iterable[Row], name: str, test: str, metric: str) -> list[float]:
  """Returns a metric of a test, in percent, of each seed of the runs called `name`."""
  return [100 * row['results'][test][metric] for row in rows if row['name'] == name]


def held(rows: Iterable[Row], names: Iterable[str]) -> list[str]:
  """Returns the names that have a row, in their order: all of them unless asked for --done."""
  found = {row['name'] for row in rows}
  return [name for name in names if name in found]


def spread(found: Sequence[float], digits: int = 1) -> str:
  """Returns the mean, and from the least to the greatest."""
  mean, low, high = statistics.mean(found), min(found), max(found)
  return f'{mean:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})'


def main(experiment: Experiment, about: str | None) -> None:
  """Runs the remaining runs of an experiment, prints its table and writes JSON, plot and README."""
  known, overrides = parser(experiment.name, about).parse_known_args()
  if wrong := [text for text in overrides if not text.startswith('--config')]:
    raise SystemExit(f'{wrong[0]} is no option and no --config.SECTION.NAME=VALUE')
  own = any(text.startswith('--config=') for text in overrides)
  plan = Plan((() if own else experiment.small) + tuple(overrides), known.seeds)
  runs = experiment.runs(plan)
  results = known.results or (known.runs if overrides else HERE / 'results')
  try:
    rows = experiment.finish(done(runs, known.runs) if known.done else sweep(runs, known.runs))
  except (UserError, Stopped) as error:
    print(f'{experiment.name}: {error}', file=sys.stderr)
    raise SystemExit(130 if isinstance(error, Stopped) else 1) from None
  partial = {run.name for run in runs} > {row['name'] for row in rows}
  text = experiment.table(rows)
  print(f'\n{text}')
  facts = {
    'command': ' '.join([f'python experiments/{experiment.name}.py', *overrides])
    + ' --done' * partial,
    'seeds': known.seeds,
    'hardware': known.hardware,
    'date': datetime.date.today().isoformat(),
    'version': __version__,
  }
  results.mkdir(parents=True, exist_ok=True)
  write_json(results / f'{experiment.name}.json', {**facts, 'runs': rows})
  experiment.plot(rows).savefig(results / f'{experiment.name}.png', dpi=100)
  if results == HERE / 'results':
    ran = f'`{facts["command"]}`, {known.seeds} seeds, {known.hardware}, {facts["date"]}'
    fill_in(HERE / 'README.md', experiment.name, f'\n{text}\n{ran}\n\n')


def done(runs: Sequence[Run], folder: Path) -> list[Row]:
  """Returns the rows of all names of which every run is finished."""
  rows = [finished(run, folder) for run in runs]
  missing = {run.name for run, row in zip(runs, rows, strict=True) if row is None}
  for name in sorted(missing):
    print(f'left out, as not all of its runs are done: {name}', file=sys.stderr)
  return [row for row in rows if row is not None and row['name'] not in missing]


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
  """Returns the options that all experiments have."""
  options = argparse.ArgumentParser(
    description=about, epilog='Other settings: --config=FILE and --config.SECTION.NAME=VALUE.'
  )
  options.add_argument('--seeds', type=int, default=3, help='per run (default: %(default)s)')
  options.add_argument(
    '--runs', type=Path, default=Path('runs/experiments'), help='their workdirs (%(default)s)'
  )
  options.add_argument(
    '--results',
    type=Path,
    help=f"where {name}.json and .png go (experiments/results; with other settings, --runs')",
  )
  options.add_argument(
    '--done', action='store_true', help='train nothing, show the lines whose runs are all done'
  )
  cores = f'{len(os.sched_getaffinity(0))} cores'
  options.add_argument(
    '--hardware', default=f'{cores}, {jax.devices()[0].device_kind}', help='as it is written down'
  )
  return options


def fill_in(file: Path, name: str, text: str) -> None:
  """Replaces what stands between `<!-- name -->` and `<!-- end -->` in a Markdown file."""
  pattern = SECTION.format(re.escape(name), '.*?')
  changed, count = re.subn(
    pattern, lambda _: SECTION.format(name, text), file.read_text(), flags=re.DOTALL
  )
  if count != 1:
    raise SystemExit(f'{file} has {count} sections <!-- {name} -->, need 1')
  replace_file(file, changed.encode())
