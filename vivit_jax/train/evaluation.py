# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model: one view while it trains, the full protocol and the report at the end."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import jax.numpy as jnp
import numpy as np

from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.config.parse import check_views, to_dict
from vivit_jax.config.schema import Config, Evaluate, Task
from vivit_jax.data.batches import Batch
from vivit_jax.data.examples import read_view
from vivit_jax.data.failures import FILE as SKIPPED
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import evaluation_batches
from vivit_jax.data.splits import evaluation_split, open_split
from vivit_jax.distributed import hosts
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_state
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.accumulate import Predictions, collect, merged_over_hosts
from vivit_jax.evaluate.metrics import compute, most_confident_mistakes
from vivit_jax.evaluate.report import ShownMistake, write_report
from vivit_jax.model.vivit import build
from vivit_jax.train import losses
from vivit_jax.train.log import read_metrics
from vivit_jax.train.losses import targets
from vivit_jax.train.step import compile_forward
from vivit_jax.train.watchdog import COMPILING, Watchdog
from vivit_jax.weights.pretrained import load_run

Forward = Callable[[Any, np.ndarray], np.ndarray]
BeforeBatch = Callable[[], None]  # ends the evaluation by what it raises
SHOWN_MISTAKES = 8
EVALUATIONS = 'evaluations'  # folder of the reports that are not training's own


@dataclasses.dataclass(frozen=True)
class Validation:
  """Outcome of a scheduled evaluation; `score`, then `loss`, say which parameters are the best."""

  metrics: dict[str, float]
  score: float

  @property
  def loss(self) -> float:
    """Mean loss of the videos."""
    return self.metrics['loss']


def open_common_split(config: Config, split: str) -> Manifest:
  """Returns a split's manifest, which must be the same in all processes.

  Raises:
    ConfigError: where it is not.
  """
  data = open_split(config, split)
  hosts.assert_equal_on_all_hosts({f'the data of {split}': data.fingerprint})
  return data


def validate(
  config: Config,
  data: Manifest,
  forward: Forward,
  failures: Failures,
  params: Any,
  before_batch: BeforeBatch,
) -> Validation:
  """Evaluates one central view of each video."""
  protocol = dataclasses.replace(config.evaluate, temporal_views=1, spatial_views=1)
  predictions = predict(config, data, forward, params, protocol, failures, before_batch)
  results = hosts.broadcast(_results(predictions, config.task, protocol))
  names = ['loss', headline(config.task), 'top5']
  metrics = {name: results[name] for name in names if name in results}
  if len(config.task.heads) > 1:
    metrics |= {f'top1_{head}': results['tasks'][head]['top1'] for head in config.task.heads}
  return Validation(metrics, results[headline(config.task)])


def _results(predictions: Predictions, task: Task, protocol: Evaluate) -> dict[str, Any]:
  """Returns those of `compute`, and `loss`: the mean over videos, of logits averaged over views."""
  labels = targets(task, jnp.asarray(predictions.labels[predictions.seen]))
  loss = losses.loss(task, jnp.asarray(predictions.mean_logits()), labels)
  return {**compute(predictions, task, protocol), 'loss': float(loss)}


def headline(task: Task) -> str:
  """Returns the metric that says most about a task in one number."""
  return 'mAP' if task.kind == 'multi_label' else 'top1'


def predict(
  config: Config,
  data: Manifest,
  forward: Forward,
  params: Any,
  protocol: Evaluate,
  failures: Failures,
  before_batch: BeforeBatch = lambda: None,
  progress: bool = False,
) -> Predictions:
  """Returns the model's summed logits for every video of a manifest, in all processes."""
  batches = evaluation_batches(
    data,
    config,
    temporal_views=protocol.temporal_views,
    spatial_views=protocol.spatial_views,
    batch_size=protocol.batch_size,
    host=hosts.process(),
    hosts=hosts.processes(),
  )
  mine = collect(
    lambda video: forward(params, video),
    _with_calls(batches, before_batch),
    config.task,
    videos=len(data.videos),
    on_failure=lambda *failure: failures.add([failure]),
    progress=progress,
  )
  everyone = merged_over_hosts(mine)
  views = protocol.temporal_views * protocol.spatial_views
  everyone.check_complete([video.path for video in data.videos], views)
  failures.collect()
  return everyone


def _with_calls(
  batches: Generator[Batch, None, None], before_batch: BeforeBatch
) -> Iterator[Batch]:
  with contextlib.closing(batches):  # what `before_batch` raises ends the decoders
    for batch in batches:
      before_batch()
      yield batch


def parse_step(text: str) -> int | Literal['best', 'last']:
  """Returns which checkpoint is meant: 'best', 'last' or a number."""
  if text in ('best', 'last'):
    return cast(Literal['best', 'last'], text)
  if not text.isdecimal():
    raise ConfigError(f"--step={text} is no step: give 'best', 'last' or a number")
  return int(text)


def evaluate_run(
  workdir: Path,
  *,
  step: str = 'best',
  split: str | None = None,
  views: tuple[int, int] | None = None,
  output: Path | None = None,
  before_batch: BeforeBatch = lambda: None,
) -> dict[str, Any]:
  """Evaluates a run with several views per video and writes a report.

  Args:
    workdir: of the run.
    step: 'best', 'last' or the number of a kept step.
    split: of the data; by default test, or validation where the data has no test videos.
    views: temporal and spatial; those of the run's configuration if None.
    output: folder of the report. If None, the workdir for what training itself evaluates in the
      end; else, so that training's report stays, workdir/evaluations/SPLIT-STEP-VIEWS.
    before_batch: called before each batch; leaves the evaluation by what it raises.

  Returns:
    The results (see `evaluate.metrics.compute`).
  """
  mesh = make_mesh(None)
  hosts.check_shared(workdir)
  config = read_config(workdir)
  with Watchdog(config.faults.hang_seconds) as watchdog:
    watchdog.expect('the first batch of the evaluation', COMPILING)
    curves = read_metrics(workdir)
    pretrained = load_run(workdir, parse_step(step))
    assert pretrained.config is not None
    config = pretrained.config
    # A trainer may have gone on.
    hosts.assert_equal_on_all_hosts({'the step to evaluate': pretrained.step})
    # The run's batch need not fit these devices; results don't depend on it.
    batch_size = -(-config.evaluate.batch_size // mesh.size) * mesh.size
    protocol = dataclasses.replace(config.evaluate, batch_size=batch_size)
    if views is not None:
      protocol = dataclasses.replace(protocol, temporal_views=views[0], spatial_views=views[1])
    check_views(protocol.temporal_views, protocol.spatial_views, config.clip)
    if split is None:
      split = evaluation_split(config)
      if split != 'test' and hosts.is_first():
        print(
          'vivit: warning: the data has no test.csv, so this evaluates its validation videos',
          file=sys.stderr,
          flush=True,
        )
    data = open_common_split(config, split)
    failures = Failures(data, config.data.max_bad_share, workdir)
    forward = compile_forward(build(config), mesh)
    before_batch = watchdog.series('the next batch of the evaluation', before_batch)
    shown = sys.stderr.isatty()
    params = shard_state(mesh, pretrained.params)
    predictions = predict(
      config, data, forward, params, protocol, failures, before_batch, progress=shown
    )
  results = {
    **_results(predictions, config.task, protocol),
    'step': pretrained.step,
    'split': data.split,
    'data': data.fingerprint,
  }
  if hosts.is_first():
    name = f'{split}-{pretrained.step}-{protocol_name(protocol)}'
    trainings = ('best', evaluation_split(config), protocol_name(config.evaluate))
    as_training = (step, split, protocol_name(protocol)) == trainings
    folder = output or (workdir if as_training else workdir / EVALUATIONS / name)
    _report(workdir, folder, config, data, protocol, predictions, results, curves)
  return results


def protocol_name(protocol: Evaluate) -> str:
  """Returns temporal x spatial views, e.g. 4x3."""
  return f'{protocol.temporal_views}x{protocol.spatial_views}'


def _report(
  workdir: Path,
  folder: Path,
  config: Config,
  data: Manifest,
  protocol: Evaluate,
  predictions: Predictions,
  results: dict[str, Any],
  curves: list[dict[str, int | float]],
) -> None:
  """Writes the report and says what it says in one line."""
  mistakes = most_confident_mistakes(predictions, config.task, data.class_names, SHOWN_MISTAKES)
  page = write_report(
    folder,
    results,
    title=workdir.resolve().name,
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
  print(
    f'{data.split}: {name} {results[name]:.4f} of {results["videos"]} videos, '
    f'{protocol_name(protocol)} views, step {results["step"]}; '
    f'report: {page}'
    + (f'; {results["skipped"]} unreadable, see {SKIPPED}' if results['skipped'] else '')
  )
