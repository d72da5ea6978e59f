# SPDX-License-Identifier: Apache-2.0
"""Evaluates parameters on a split of the data, over all hosts; one view per video in training."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
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

# Parameters on the devices and a batch of this process -> the logits of its rows.
Forward = Callable[[Any, Mapping[str, Any]], np.ndarray]
BeforeBatch = Callable[[], None]  # called before each batch; an exception ends the evaluation


def open_common_split(config: Config, split: str) -> Manifest:
  """Returns the manifest of a split and checks that it is the same in all processes.

  Raises:
    DataError: the split is invalid.
    HostsDifferError: two processes have different data.
  """
  data = open_split(config, split)
  hosts.assert_equal_on_all_hosts({f'the data of {split}': data.fingerprint})
  return data


def results_of(predictions: Predictions, task: Task, protocol: Evaluate) -> dict[str, Any]:
  """Returns the results of `compute`, and the `loss` of the videos' mean logits."""
  labels = targets(task, jnp.asarray(predictions.labels[predictions.seen]))
  loss = losses.loss(task, jnp.asarray(predictions.mean_logits()), labels)
  return {**compute(predictions, task, protocol), 'loss': float(loss)}


def evaluate_split(
  config: Config,
  data: Manifest,
  forward: Forward,
  params: Any,
  protocol: Evaluate,
  failures: Failures,
  before_batch: BeforeBatch = lambda: None,
  progress: bool = False,
  columns: int | None = None,
  every: int = 1,
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
    columns: of what `forward` returns, if that is no logits.
    every: evaluates the first of this number of videos and leaves out the others.

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
    every=every,
  )
  mine = collect(
    lambda batch: forward(params, batch),
    _with_calls(batches, before_batch),
    config.task,
    videos=len(data.videos),
    columns=columns,
    on_failure=lambda *failure: failures.add([failure]),
    progress=progress,
  )
  everyone = merged_over_hosts(mine)
  views = protocol.temporal_views * protocol.spatial_views
  everyone.check_complete([video.path for video in data.videos], views, every)
  failures.collect()
  return everyone


def _with_calls(
  batches: Generator[Batch, None, None], before_batch: BeforeBatch
) -> Iterator[Batch]:
  with contextlib.closing(batches):  # an exception of `before_batch` stops the decoders
    for batch in batches:
      before_batch()
      yield batch
