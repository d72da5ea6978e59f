# SPDX-License-Identifier: Apache-2.0
"""Scheduled evaluations of a run: one view of each validation video, and a score for the best."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from vivit_jax.config.schema import Config, Task
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.distributed import hosts
from vivit_jax.model.vivit import ViViT
from vivit_jax.train.evaluation import (
  BeforeBatch,
  Forward,
  evaluate_split,
  open_common_split,
  results_of,
)
from vivit_jax.train.masked_evaluation import compile_masked, evaluate_masked
from vivit_jax.train.step import compile_forward


@dataclasses.dataclass(frozen=True)
class Validation:
  """Result of a scheduled evaluation; the best parameters are chosen by `score`, then `loss`."""

  metrics: dict[str, float]
  score: float

  @property
  def loss(self) -> float:
    """Mean loss over videos."""
    return self.metrics['loss']


def headline(task: Task) -> str | None:
  """Returns the metric that sums a task up in one number; None: the loss alone does."""
  if task.kind == 'masked':
    return None
  return 'mAP' if task.kind == 'multi_label' else 'top1'


def validator(
  config: Config, workdir: Path, mesh: Mesh, model: ViViT, train: Manifest
) -> Callable[[Any, BeforeBatch], Validation]:
  """Returns a function (params on the devices, before_batch) that evaluates the validation split.

  Args:
    config: of the run; its task says what is evaluated.
    workdir: of the run, where videos that cannot be read are listed.
    mesh: of the devices.
    model: of the run.
    train: the training split, which the probe of a masked task needs.
  """
  data = open_common_split(config, 'validation')
  bad = config.data.max_bad_fraction
  failures = Failures(data, bad, workdir)
  if config.task.kind != 'masked':
    forward = compile_forward(model, mesh, config.clip)
    return lambda params, before: validate(config, forward, data, params, failures, before)
  masked, lost = compile_masked(config, model, mesh), Failures(train, bad, workdir)

  def validate_masked(params: Any, before_batch: BeforeBatch) -> Validation:
    size = config.evaluate.batch_size
    metrics, _ = evaluate_masked(
      config, masked, data, failures, train, lost, params, size, before_batch
    )
    return Validation(metrics, 0.0)  # the lowest loss is the best

  return validate_masked


def validate(
  config: Config,
  forward: Forward,
  data: Manifest,
  params: Any,
  failures: Failures,
  before_batch: BeforeBatch,
) -> Validation:
  """Evaluates the central view of each video."""
  protocol = dataclasses.replace(config.evaluate, temporal_views=1, spatial_views=1)
  predictions = evaluate_split(config, data, forward, params, protocol, failures, before_batch)
  results = hosts.broadcast(results_of(predictions, config.task, protocol))
  score = headline(config.task)
  assert score is not None
  metrics = {name: results[name] for name in ('loss', score, 'top5') if name in results}
  if len(config.task.heads) > 1:
    metrics |= {f'top1_{head}': results['tasks'][head]['top1'] for head in config.task.heads}
  return Validation(metrics, results[score])
