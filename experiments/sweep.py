# SPDX-License-Identifier: Apache-2.0
"""Runs a list of training runs; finished ones are skipped and stopped ones are resumed."""

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.config.file import load
from vivit_jax.config.schema import Config
from vivit_jax.data.failures import Failures
from vivit_jax.data.splits import open_split
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.metrics import compute
from vivit_jax.files import write_json
from vivit_jax.model.cost import model_cost
from vivit_jax.model.vivit import build
from vivit_jax.train.evaluation import evaluate_split
from vivit_jax.train.log import read_metrics
from vivit_jax.train.loop import train
from vivit_jax.train.step import compile_forward
from vivit_jax.weights import export
from vivit_jax.weights.pretrained import load_run

RESULT = 'experiment.json'
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Test:
  """One evaluation of a trained run, beside the one of its report."""

  name: str
  split: str = 'test'
  views: tuple[int, int] | None = None  # temporal and spatial; None = the run's own


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run, as data.

  Attributes:
    name: of the line in the tables; runs that differ in their seed alone share it.
    seed: of the run; `config.seed`.
    settings: as on the command line of `vivit train`; `{runs}` in them is the folder of all runs,
      so that a run can start from the weights of an earlier one in the list.
    tests: what is measured when it is trained.
    as_image: whether this is a model of one frame, which then is also written as an image model,
      `image.safetensors` in its workdir, that can start any video model.
  """

  name: str
  seed: int
  settings: tuple[str, ...]
  tests: tuple[Test, ...] = ()
  as_image: bool = False

  @property
  def folder(self) -> str:
    """Of the run, in that of all runs."""
    kept = [c if c.isalnum() or c in '_-.' else '_' for c in self.name]
    return f'{"".join(kept)}-{self.seed}'

  def config(self, runs: Path) -> Config:
    """Returns the checked configuration; raises ConfigError."""
    settings = [setting.replace('{runs}', str(runs)) for setting in self.settings]
    return load([*settings, f'--config.seed={self.seed}'])


def repeat(name: str, count: int, settings: Sequence[str], tests: Sequence[Test] = ()) -> list[Run]:
  """Returns the same run with the seeds 0, 1, ..., `count` of them."""
  return [Run(name, seed, tuple(settings), tuple(tests)) for seed in range(count)]


def sweep(runs: Sequence[Run], folder: Path, show: Callable[[str], None] = print) -> list[Row]:
  """Does the remaining runs of a list and returns a row for each run, in order.

  A finished run is read from its `experiment.json`; a half-done one goes on in its workdir, and
  one that lacks a test is given that alone.

  Args:
    runs: runs of one name and seed must have equal settings.
    folder: of the runs; each gets its workdir in it.
    show: is given the progress table after each run that was trained.

  Raises:
    ConfigError: where a finished run has other settings.
    Stopped: after SIGINT or SIGTERM, once the running run is on disk.
  """
  rows = [finished(run, folder) for run in runs]
  for run in runs:
    run.config(folder)  # reports a mistake in any run before the first one starts
  spent: list[float] = []
  for k, run in enumerate(runs):
    if rows[k] is None:
      show(progress(runs, rows, running=k, spent=spent))
      began = time.monotonic()
      rows[k] = finished(run, folder) or measure(run, folder)  # a run may be listed twice
      spent.append(time.monotonic() - began)
  show(progress(runs, rows, running=None, spent=spent))
  return [row for row in rows if row is not None]


def finished(run: Run, folder: Path) -> Row | None:
  """Returns the row of a run that was measured before, None if it or one of its tests was not.

  Raises:
    ConfigError: where it has other settings.
  """
  file = folder / run.folder / RESULT
  if not file.exists():
    return None
  row = json.loads(file.read_text())
  if row['settings'] != list(run.settings):
    raise ConfigError(
      f'{file} was measured with {row["settings"]}, now the settings are {list(run.settings)}: '
      'give another --runs, or delete it'
    )
  return row if all(test.name in row['results'] for test in run.tests) else None


def measure(run: Run, folder: Path) -> Row:
  """Trains and tests a run, or goes on with it, and writes and returns its row.

  Returns:
    Name, seed and settings; `parameters`, `gflops` of one clip as the paper counts; `steps`;
    `loss`, the mean of the last logged steps; `seconds_per_step`, the median; `results`, for each
    test and for 'report' (the run's own evaluation) the top-1 of each head, or mAP.
  """
  workdir, config = folder / run.folder, run.config(folder)
  workdir.mkdir(parents=True, exist_ok=True)
  file = workdir / RESULT
  # Two experiments may share a run and each have tests of its own.
  results = json.loads(file.read_text())['results'] if file.exists() else {}
  with (workdir / 'log.txt').open('a') as log, contextlib.redirect_stdout(log):
    if not results:
      results['report'] = scores(train(config, workdir))
    for test in run.tests:
      if test.name not in results:
        results[test.name] = scores(evaluate(workdir, test))
    if run.as_image:
      source = dataclasses.replace(load_run(workdir).source, kind='image')
      export.write(source, workdir / 'image.safetensors')
  logged, config = read_metrics(workdir), read_config(workdir)
  speeds = [row['clips_per_second'] for row in logged if 'clips_per_second' in row]
  cost = model_cost(build(config), config.clip)
  row = {
    'name': run.name,
    'seed': run.seed,
    'settings': list(run.settings),
    'parameters': cost.parameters,
    'gflops': cost.gflops,
    'steps': logged[-1]['step'],
    'loss': [row['loss'] for row in logged if 'loss' in row][-1],
    'seconds_per_step': config.train.batch_size / statistics.median(speeds) if speeds else None,
    'results': results,
  }
  write_json(file, row)
  jax.clear_caches()  # the next run's programs are others
  return row


def evaluate(workdir: Path, test: Test) -> Row:
  """Returns the results of a test of the run's best parameters (see `metrics.compute`)."""
  config = read_config(workdir)
  temporal, spatial = test.views or (config.evaluate.temporal_views, config.evaluate.spatial_views)
  protocol = dataclasses.replace(config.evaluate, temporal_views=temporal, spatial_views=spatial)
  data = open_split(config, test.split)
  forward = compile_forward(build(config), make_mesh(None), config.clip)
  failures = Failures(data, config.data.max_bad_fraction, workdir)
  params = load_run(workdir).params
  return compute(
    evaluate_split(config, data, forward, params, protocol, failures), config.task, protocol
  )


def scores(results: Row) -> dict[str, float]:
  """Returns the top-1 of each head and of all of them together, or mAP."""
  if 'mAP' in results:
    return {'mAP': results['mAP']}
  return {name: task['top1'] for name, task in results['tasks'].items()}


def progress(
  runs: Sequence[Run], rows: Sequence[Row | None], running: int | None, spent: Sequence[float]
) -> str:
  """Returns a line per run, what it is or has, and how long the rest will take."""
  left = sum(row is None for row in rows)
  lines = [f'{len(rows) - left} of {len(rows)} runs are done']
  if left and spent:
    each = statistics.mean(spent)
    lines[0] += f'; {left} left at {each:.0f} s each: ETA {tqdm.format_interval(left * each)}'
  for k, (run, row) in enumerate(zip(runs, rows, strict=True)):
    state = 'running' if k == running else 'left'
    if row is not None:
      found = row['results']['report']
      state = 'done     ' + '  '.join(f'{name} {100 * v:.1f} %' for name, v in found.items())
    lines.append(f'  {run.name:36} seed {run.seed}  {state}')
  return '\n'.join(lines)
