# SPDX-License-Identifier: Apache-2.0
"""Evaluates masked pretraining: loss on a split, a probe of the features, and reconstructions."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from sklearn.neighbors import KNeighborsClassifier

from vivit_jax.config.schema import Config, Evaluate
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.distributed.sharding import batch_sharding, local_rows, shard_batch
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.model.kernels import check_kernel
from vivit_jax.model.values import values_of
from vivit_jax.model.vivit import ViViT, apply
from vivit_jax.train.evaluation import BeforeBatch, Forward, evaluate_split
from vivit_jax.train.masked import places_of_videos, reconstruction_loss

NEIGHBORS = 20  # of the probe, weighted by their distance


def compile_masked(config: Config, model: ViViT, mesh: Mesh) -> Forward:
  """Returns a function (params, batch of this process) -> float32 [B, 1 + D] of its rows.

  Column 0 is the loss of the clip, whose mask depends on seed and video alone. The others are the
  mean of the encoder's tokens of the whole clip, if the probe needs them.
  """
  check_kernel(model.config, mesh.devices.flat[0].device_kind)
  rows = batch_sharding(mesh)

  def forward(params: Any, video: Array, videos: Int[Array, ' b']) -> Float[Array, 'b c']:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      places = places_of_videos(config, videos)
      loss = reconstruction_loss(config, model, params, video, places)[:, None]
      if not probes(config):
        return loss
      encoder = {name: part for name, part in params.items() if name != 'decoder'}
      tokens = apply(model.clone(masked=None), encoder, values_of(video, config.clip))
      return jnp.concatenate([loss, tokens.mean(axis=1)], axis=1)

  compiled = jax.jit(
    forward, in_shardings=(None, batch_sharding(mesh, video=True), rows), out_shardings=rows
  )

  def of_batch(params: Any, batch: Mapping[str, Any]) -> np.ndarray:
    placed = shard_batch(mesh, {'video': batch['video'], 'id': batch['id']})
    return local_rows(compiled(params, placed['video'], placed['id']))

  return of_batch


def probes(config: Config) -> bool:
  """Whether evaluations classify videos by their nearest neighbors."""
  return bool(config.task.heads) and config.masked.probe_videos > 0


def evaluate_masked(
  config: Config,
  forward: Forward,
  data: Manifest,
  failures: Failures,
  train: Manifest,
  train_failures: Failures,
  params: Any,
  batch_size: int,
  before_batch: BeforeBatch,
  progress: bool = False,
) -> tuple[dict[str, float], Predictions]:
  """Returns loss and probes of a split, and row by row what they come from.

  The probe gives each video the label of most of its nearest neighbors among training videos, by
  the cosine of features less their mean (as in arXiv 1805.01978, section 3.4).

  Args:
    config: of the run.
    forward: of `compile_masked`.
    data: the split.
    failures: collects its videos that cannot be read.
    train: the training split, of which `masked.probe_videos` are the neighbors.
    train_failures: likewise.
    params: on the devices, with the decoder.
    batch_size: videos over all hosts.
    before_batch: see `evaluation.BeforeBatch`.
    progress: whether to show a progress bar with videos per second and ETA.
  """
  protocol = Evaluate(temporal_views=1, spatial_views=1, batch_size=batch_size)
  columns = 1 + (config.model.width if probes(config) else 0)

  def rows(split: Manifest, lost: Failures, every: int = 1) -> Predictions:
    return evaluate_split(
      config, split, forward, params, protocol, lost, before_batch, progress, columns, every
    )

  found = rows(data, failures)
  loss, features = np.split(found.mean_logits(), [1], axis=1)
  metrics = {'loss': float(loss.mean())}
  if probes(config):
    every = -(-len(train.videos) // config.masked.probe_videos)
    known = rows(train, train_failures, every)
    metrics |= _probe(config.task.heads, known, features, found.labels[found.seen])
  return metrics, found


def _probe(
  heads: Sequence[str],
  known: Predictions,
  features: Float[np.ndarray, 'n d'],
  labels: Int[np.ndarray, 'n heads'],
) -> dict[str, float]:
  """Returns the top-1 of each head by nearest neighbors; nothing if a feature is not finite."""
  neighbors = known.mean_logits()[:, 1:]
  if not (np.isfinite(neighbors).all() and np.isfinite(features).all()):
    return {}
  result = {}
  for column, head in enumerate(heads):
    found = nearest_label(neighbors, known.labels[known.seen][:, column], features)
    right = found == labels[:, column]
    result['knn_top1' + (f'_{head}' if len(heads) > 1 else '')] = float(right.mean())
  return result


def nearest_label(
  known: Float[np.ndarray, 'm d'], labels: Int[np.ndarray, ' m'], features: Float[np.ndarray, 'n d']
) -> Int[np.ndarray, ' n']:
  """Returns the label of most of the nearest neighbors, by the cosine of features less their mean.

  Args:
    known: features whose labels are known.
    labels: of these.
    features: whose labels are asked for.
  """
  center = known.mean(axis=0)
  probe = KNeighborsClassifier(
    min(NEIGHBORS, len(known)), weights='distance', metric='cosine', algorithm='brute'
  )
  return np.asarray(probe.fit(known - center, labels).predict(features - center))
