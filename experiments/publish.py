# SPDX-License-Identifier: Apache-2.0
"""What all experiments share: their command line, tables, and where results are written."""

import argparse
import dataclasses
import datetime
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from sweep import Row, Run, sweep
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


def spread(found: Sequence[float], digits: int = 1) -> str:
  """Returns the mean, and from the least to the greatest."""
  mean, low, high = statistics.mean(found), min(found), max(found)
  return f'{mean:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})'


def markdown(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
  """Returns a table that is as readable on a terminal; the first column is text."""
  cells = [list(map(str, line)) for line in (head, *lines)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  cells.insert(1, ['-' * widths[0], *('-' * max(1, width - 1) + ':' for width in widths[1:])])
  text = ''
  for line in cells:
    padded = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
    text += f'| {" | ".join(padded)} |\n'
  return text


def main(experiment: Experiment, about: str | None) -> None:
  """Runs what is left of an experiment, prints its table and writes JSON, plot and README."""
  known, overrides = parser(experiment.name, about).parse_known_args()
  if wrong := [text for text in overrides if not text.startswith('--config')]:
    raise SystemExit(f'{wrong[0]} is no option and no --config.SECTION.NAME=VALUE')
  own = any(text.startswith('--config=') for text in overrides)
  plan = Plan((() if own else experiment.small) + tuple(overrides), known.seeds)
  try:
    rows = experiment.finish(sweep(experiment.runs(plan), known.runs))
  except (UserError, Stopped) as error:
    print(f'{experiment.name}: {error}', file=sys.stderr)
    raise SystemExit(130 if isinstance(error, Stopped) else 1) from None
  text = experiment.table(rows)
  print(f'\n{text}')
  facts = {
    'command': ' '.join([f'python experiments/{experiment.name}.py', *overrides]),
    'seeds': known.seeds,
    'hardware': known.hardware,
    'date': datetime.date.today().isoformat(),
    'version': __version__,
  }
  known.results.mkdir(parents=True, exist_ok=True)
  write_json(known.results / f'{experiment.name}.json', {**facts, 'runs': rows})
  experiment.plot(rows).savefig(known.results / f'{experiment.name}.png', dpi=100)
  if known.results == HERE / 'results':
    ran = f'`{facts["command"]}`, {known.seeds} seeds, {known.hardware}, {facts["date"]}'
    fill_in(HERE / 'README.md', experiment.name, f'\n{text}\n{ran}\n\n')


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
    '--results', type=Path, default=HERE / 'results', help=f'where {name}.json and .png go'
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
