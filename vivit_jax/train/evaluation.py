# SPDX-License-Identifier: Apache-2.0
"""Evaluates parameters on a split of the data, over all hosts; one view per video in training."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from vivit_jax.config.schema import Config, Evaluate, Task
from vivit_jax.data.batches import Batch
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import evaluation_batches
from vivit_jax.data.splits import open_split
from vivit_jax.distributed import hosts
from vivit_jax.evaluate.accumulate import Predictions, collect, merged_over_hosts
from vivit_jax.evaluate.metrics import compute
from vivit_jax.train import losses
from vivit_jax.train.losses import targets

Forward = Callable[[Any, np.ndarray], np.ndarray]
BeforeBatch = Callable[[], None]  # called before each batch; an exception ends the evaluation


@dataclasses.dataclass(frozen=True)
class Validation:
  """Result of a scheduled evaluation; the best parameters are chosen by `score`, then `loss`."""

  metrics: dict[str, float]
  score: float

  @property
  def loss(self) -> float:
    """Mean loss over videos."""
    return self.metrics['loss']


def open_common_split(config: Config, split: str) -> Manifest:
  """Returns the manifest of a split and checks that it is the same in all processes.

  Raises:
    DataError: the split is invalid.
    HostsDifferError: two processes have different data.
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
  """Evaluates the central view of each video."""
  protocol = dataclasses.replace(config.evaluate, temporal_views=1, spatial_views=1)
  predictions = evaluate_split(config, data, forward, params, protocol, failures, before_batch)
  results = hosts.broadcast(results_of(predictions, config.task, protocol))
  names = ['loss', headline(config.task), 'top5']
  metrics = {name: results[name] for name in names if name in results}
  if len(config.task.heads) > 1:
    metrics |= {f'top1_{head}': results['tasks'][head]['top1'] for head in config.task.heads}
  return Validation(metrics, results[headline(config.task)])


def results_of(predictions: Predictions, task: Task, protocol: Evaluate) -> dict[str, Any]:
  """Returns the results of `compute`, and the `loss` of the videos' mean logits."""
  labels = targets(task, jnp.asarray(predictions.labels[predictions.seen]))
  loss = losses.loss(task, jnp.asarray(predictions.mean_logits()), labels)
  return {**compute(predictions, task, protocol), 'loss': float(loss)}


def headline(task: Task) -> str:
  """Returns the name of the main metric of a task."""
  return 'mAP' if task.kind == 'multi_label' else 'top1'


def evaluate_split(
  config: Config,
  data: Manifest,
  forward: Forward,
  params: Any,
  protocol: Evaluate,
  failures: Failures,
  before_batch: BeforeBatch = lambda: None,
  progress: bool = False,
) -> Predictions:
  """Returns the logits of every video of a manifest, summed over views, in all processes.

  Args:
    config: task, clip and data settings.
    data: the split.
    forward: result of `compile_forward`.
    params: parameters on the devices.
    protocol: number of views per video, and batch size in views over all hosts.
    failures: collects unreadable videos.
    before_batch: see BeforeBatch.
    progress: whether to show a progress bar with videos per second and ETA.

  Raises:
    EvaluationError: a readable video was not evaluated.
    DataError: too many videos cannot be read.
  """
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
  with contextlib.closing(batches):  # an exception of `before_batch` stops the decoders
    for batch in batches:
      before_batch()
      yield batch
