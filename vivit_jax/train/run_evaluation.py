# SPDX-License-Identifier: Apache-2.0
"""Evaluates a checkpoint of a training run with several views and writes the report."""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.config.parse import check_views, to_dict
from vivit_jax.config.schema import Config, Evaluate, Task
from vivit_jax.data.examples import read_view
from vivit_jax.data.failures import FILE as SKIPPED
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import SEPARATOR, Manifest
from vivit_jax.data.splits import evaluation_split
from vivit_jax.distributed import hosts
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_state
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.metrics import most_confident_mistakes
from vivit_jax.evaluate.prediction_files import import_parquet, prediction_file
from vivit_jax.evaluate.predictions import NOT_FINITE
from vivit_jax.evaluate.ranks import probabilities
from vivit_jax.evaluate.report import ShownMistake, write_report
from vivit_jax.model.vivit import build
from vivit_jax.train.evaluation import (
  BeforeBatch,
  evaluate_split,
  open_common_split,
  results_of,
)
from vivit_jax.train.log import read_metrics, validations_of
from vivit_jax.train.masked_report import report_masked
from vivit_jax.train.patience import STOPPED
from vivit_jax.train.step import compile_forward
from vivit_jax.train.validation import headline
from vivit_jax.train.watchdog import COMPILING, Watchdog
from vivit_jax.weights.pretrained import load_run

SHOWN_MISTAKES = 8
EVALUATIONS = 'evaluations'  # folder of additional reports


def parse_step(text: str) -> int | Literal['best', 'last']:
  """Parses --step: 'best', 'last' or a number."""
  if text in ('best', 'last'):
    return cast(Literal['best', 'last'], text)
  if not text.isdecimal():
    raise ConfigError(f"--step={text} is not a step: give 'best', 'last' or a number")
  return int(text)


def evaluate_run(
  workdir: Path,
  *,
  step: str = 'best',
  split: str | None = None,
  views: tuple[int, int] | None = None,
  output: Path | None = None,
  predictions_as: Literal['csv', 'parquet'] | None = None,
  before_batch: BeforeBatch = lambda: None,
) -> dict[str, Any]:
  """Evaluates a run with several views per video and writes a report.

  Args:
    workdir: workdir of the run.
    step: 'best', 'last' or the number of a saved step.
    split: split to evaluate; None = test, or validation if the data has no test videos.
    views: number of temporal and spatial views; None = those of the run's config.
    output: folder of the report. None = the workdir if this is the final evaluation of training,
      otherwise workdir/evaluations/SPLIT-STEP-VIEWS, so that training's report is kept.
    predictions_as: also write predictions.csv or .parquet there, see `prediction_file`.
    before_batch: called before each batch; an exception ends the evaluation.

  Returns:
    The results (see `evaluate.metrics.compute`).
  """
  if predictions_as == 'parquet':
    import_parquet('--predictions=parquet', 'use --predictions=csv')
  mesh = make_mesh(None)
  hosts.check_shared(workdir)
  config = read_config(workdir)
  with Watchdog(config.faults.hang_timeout_seconds) as watchdog:
    watchdog.expect('the first batch of the evaluation', COMPILING)
    curves, validations = read_metrics(workdir), validations_of(workdir)
    pretrained = load_run(workdir, parse_step(step))
    assert pretrained.config is not None
    config = pretrained.config
    hosts.assert_equal_on_all_hosts({'the step to evaluate': pretrained.step})  # a trainer goes on
    if config.task.kind == 'masked':
      views = _refuse_classes(workdir, views, predictions_as)
    protocol = _protocol(config, views, mesh.size)
    data = open_common_split(config, split or _default_split(config))
    before_batch = watchdog.series('the next batch of the evaluation', before_batch)
    folder = output or _folder(workdir, config, protocol, data.split, step, pretrained.step)
    if config.task.kind == 'masked':
      size = protocol.batch_size
      return report_masked(workdir, folder, pretrained, mesh, data, size, before_batch)
    predictions = evaluate_split(
      config,
      data,
      compile_forward(build(config), mesh, config.clip),
      shard_state(mesh, pretrained.params),
      protocol,
      Failures(data, config.data.max_bad_fraction, workdir),
      before_batch,
      progress=sys.stderr.isatty(),
    )
  results = {
    **results_of(predictions, config.task, protocol),
    'step': pretrained.step,
    'split': data.split,
    'data': data.fingerprint,
  }
  if validations and validations[-1].get(STOPPED):
    results['stopped_early_at'] = validations[-1]['step']
  if hosts.is_first():
    title = workdir.resolve().name
    _report(folder, title, config, data, protocol, predictions, results, curves)
    if predictions_as is not None:
      _write_predictions(folder / f'predictions.{predictions_as}', config.task, data, predictions)
  return results


def _refuse_classes(workdir: Path, *given: Any) -> tuple[int, int]:
  """Returns the views of masked pretraining; raises a ConfigError for options of classifiers."""
  if any(given):
    raise ConfigError(
      f'{workdir} is masked pretraining, which is evaluated on one view of each video and predicts '
      'no classes: leave out --views and --predictions'
    )
  return 1, 1


def _folder(
  workdir: Path, config: Config, protocol: Evaluate, split: str, step: str, number: int | None
) -> Path:
  """Returns where the report goes: the workdir if it is that with which training itself ends."""
  name = protocol_name(protocol)
  usual = '1x1' if config.task.kind == 'masked' else protocol_name(config.evaluate)
  if (step, split, name) == ('best', evaluation_split(config), usual):
    return workdir
  return workdir / EVALUATIONS / f'{split}-{number}-{name}'


def _write_predictions(file: Path, task: Task, data: Manifest, predictions: Predictions) -> None:
  """Writes one row per video with its true labels; tags are joined as in a manifest."""
  labels = [name for head in task.heads for name in data.class_names[head]]
  facts = {'path': str, 'start': float, 'end': float, 'views': int, 'error': str}
  facts |= {f'true {head}': str for head in task.heads}
  reasons = dict(predictions.failures)
  logits = iter(predictions.mean_logits())
  with prediction_file(file, task, labels, facts) as rows:
    for i, (video, views) in enumerate(zip(data.videos, predictions.views.tolist(), strict=True)):
      ids = _true_ids(data, predictions, i)
      if task.kind == 'multi_label':
        truth = [SEPARATOR.join(labels[k] for k in ids)]
      else:
        named = zip(task.heads, ids, strict=True)
        truth = [data.class_names[head][k] if k >= 0 else '' for head, k in named]
      found = next(logits) if views else None
      error = None if views else reasons.get(video.path, 'not read')
      if found is not None and not np.isfinite(found).all():
        found, error = None, NOT_FINITE
      shares = None if found is None else probabilities(found[None], task)[0]
      rows.write([video.path, video.start, video.end, views, error, *truth], shares)
  print(f'predictions: {file}')


def _true_ids(data: Manifest, predictions: Predictions, index: int) -> tuple[int, ...]:
  """Returns the labels of a video, or -1 for an unread item of a user's own source."""
  if data.labels_known:
    return data.videos[index].labels
  row = predictions.labels[index]
  return tuple(np.flatnonzero(row > 0).tolist() if data.multi_label else row.tolist())


def _protocol(config: Config, views: tuple[int, int] | None, devices: int) -> Evaluate:
  """Returns the run's protocol with `views`, if given, and a batch size that fits the devices.

  Raises:
    ConfigError: the views need too much memory.
  """
  # The run may have used other devices; results do not depend on the batch size.
  batch_size = -(-config.evaluate.batch_size // devices) * devices
  protocol = dataclasses.replace(config.evaluate, batch_size=batch_size)
  if views is not None:
    protocol = dataclasses.replace(protocol, temporal_views=views[0], spatial_views=views[1])
  check_views(protocol.temporal_views, protocol.spatial_views, config.clip)
  return protocol


def _default_split(config: Config) -> str:
  """Returns the split of the final evaluation; prints a warning if it is not the test split."""
  split = evaluation_split(config)
  if split != 'test' and hosts.is_first():
    print(
      'vivit: warning: the data has no test split, so this evaluates its validation videos',
      file=sys.stderr,
      flush=True,
    )
  return split


def protocol_name(protocol: Evaluate) -> str:
  """Returns the views as temporal x spatial, e.g. 4x3."""
  return f'{protocol.temporal_views}x{protocol.spatial_views}'


def _report(
  folder: Path,
  title: str,
  config: Config,
  data: Manifest,
  protocol: Evaluate,
  predictions: Predictions,
  results: dict[str, Any],
  curves: list[dict[str, int | float]],
) -> None:
  """Writes the report and prints the main metric."""
  mistakes = most_confident_mistakes(predictions, config.task, data.class_names, SHOWN_MISTAKES)
  page = write_report(
    folder,
    results,
    title=title,
    predictions=predictions,
    task=config.task,
    class_names=data.class_names,
    curves=curves,
    mistakes=[
      ShownMistake(m, data.videos[m.video].path, read_view(data, m.video, config)) for m in mistakes
    ],
    config=to_dict(config),
  )
  name = headline(config.task)
  assert name is not None
  print(
    f'{data.split}: {name} {results[name]:.4f} of {results["videos"]} videos, '
    f'{protocol_name(protocol)} views, step {results["step"]}; '
    f'report: {page}'
    + (f'; {results["skipped"]} unreadable, see {SKIPPED}' if results['skipped'] else '')
  )
