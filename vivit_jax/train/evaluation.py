# SPDX-License-Identifier: Apache-2.0
"""Evaluates parameters on a split of the data: on all hosts together, and one view in training."""

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
BeforeBatch = Callable[[], None]  # called before each batch; what it raises ends the evaluation


def open_common_split(config: Config, split: str) -> Manifest:
  """Returns a split's manifest, which must be the same in all processes.

  Raises:
    DataError: the split cannot be used.
    HostsDifferError: two processes have different data.
  """
  data = open_split(config, split)
  hosts.assert_equal_on_all_hosts({f'the data of {split}': data.fingerprint})
  return data


def results_of(predictions: Predictions, task: Task, protocol: Evaluate) -> dict[str, Any]:
  """Returns the results of `compute` and `loss`, that of the videos' mean logits."""
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
    data: of the split.
    forward: of `compile_forward`.
    params: on the devices.
    protocol: views of a video, and of a batch over all hosts.
    failures: collects the videos that cannot be read.
    before_batch: see BeforeBatch.
    progress: shows videos per second and the time left.
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
  with contextlib.closing(batches):  # what `before_batch` raises ends the decoders
    for batch in batches:
      before_batch()
      yield batch
