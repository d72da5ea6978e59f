# SPDX-License-Identifier: Apache-2.0
"""Evaluates a run of masked pretraining on a split, and writes the report with reconstructions."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from vivit_jax.config.parse import to_dict
from vivit_jax.config.pretraining import places_of
from vivit_jax.config.schema import Config
from vivit_jax.data.examples import read_view
from vivit_jax.data.failures import FILE as SKIPPED
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.video.diagnose import DecodeError
from vivit_jax.distributed import hosts
from vivit_jax.distributed.sharding import shard_state
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.reconstructions import Reconstruction, write_pretraining_report
from vivit_jax.model.masking import select, split_places
from vivit_jax.model.tokenizer import patches_of, uncut
from vivit_jax.model.values import values_of
from vivit_jax.model.vivit import ViViT, apply, build
from vivit_jax.train.evaluation import BeforeBatch, open_common_split
from vivit_jax.train.log import read_metrics
from vivit_jax.train.masked import pixel_statistics, places_of_videos
from vivit_jax.train.masked_evaluation import compile_masked, evaluate_masked
from vivit_jax.weights.pretrained import Pretrained

SHOWN = 6  # clips of the report
GRAY = 128


def report_masked(
  workdir: Path,
  folder: Path,
  pretrained: Pretrained,
  mesh: Mesh,
  data: Manifest,
  batch_size: int,
  before_batch: BeforeBatch,
) -> dict[str, Any]:
  """Evaluates a run on a split, writes the report and prints its main number in one line.

  Args:
    workdir: of the run.
    folder: of the report.
    pretrained: the run's parameters.
    mesh: of the devices.
    data: the split.
    batch_size: videos over all hosts.
    before_batch: see `evaluation.BeforeBatch`.

  Returns:
    `loss`, `knn_top1` if there are labels, `videos`, `skipped`, `step`, `split` and `data`.
  """
  config = pretrained.config
  assert config is not None
  model, source = build(config), pretrained.source
  params = traverse_util.unflatten_dict({**source.params, **source.decoder}, sep='/')
  bad = config.data.max_bad_fraction
  train = open_common_split(config, 'train')
  metrics, found = evaluate_masked(
    config,
    compile_masked(config, model, mesh),
    data,
    Failures(data, bad, workdir),
    train,
    Failures(train, bad, workdir),
    shard_state(mesh, params),
    batch_size,
    before_batch,
    progress=sys.stderr.isatty(),
  )
  results = {
    **metrics,
    'videos': len(found.seen),
    'skipped': len(data.videos) - len(found.seen),
    'step': pretrained.step,
    'split': data.split,
    'data': data.fingerprint,
  }
  if hosts.is_first():
    page = write_pretraining_report(
      folder,
      results,
      title=workdir.resolve().name,
      curves=read_metrics(workdir),
      shown=list(reconstructions(config, model, params, data, found)),
      failures=found.failures,
      config=to_dict(config),
    )
    scores = '  '.join(f'{name} {value:.4f}' for name, value in metrics.items())
    skipped = f'; {results["skipped"]} unreadable, see {SKIPPED}' if results['skipped'] else ''
    print(
      f'{data.split}: {scores} of {results["videos"]} videos, step {results["step"]}; '
      f'report: {page}{skipped}'
    )
  return results


def reconstructions(
  config: Config, model: ViViT, params: Any, data: Manifest, found: Predictions
) -> Iterator[Reconstruction]:
  """Yields clips of a split as they are, as the encoder sees them, and as they are predicted.

  Args:
    config: of the run.
    model: with its decoder.
    params: in host memory.
    data: the split.
    found: of `evaluate_masked`.
  """
  losses = found.mean_logits()[:, 0]
  chosen = np.linspace(0, len(found.seen) - 1, min(SHOWN, len(found.seen))).round().astype(int)
  predict = jax.jit(lambda video, number: reconstructed(config, model, params, video, number))
  for row in dict.fromkeys(chosen.tolist()):
    index = int(found.seen[row])
    try:
      frames = read_view(data, index, config)
    except DecodeError:
      continue  # it was readable a moment ago, and is counted
    visible, predicted = map(np.asarray, predict(frames[None], np.array([index])))
    path = data.videos[index].path
    yield Reconstruction(path, float(losses[row]), frames, visible[0], predicted[0])


def reconstructed(
  config: Config, model: ViViT, params: Any, video: UInt8[Array, '1 f h w 3'], videos: Array
) -> tuple[UInt8[Array, '1 f h w 3'], UInt8[Array, '1 f h w 3']]:
  """Returns a clip with hidden patches in gray, and with what the model predicts of them."""
  places = places_of_videos(config, videos)
  patches = patches_of(config.model, video)
  hidden = split_places(config.masked, places)[1]
  truth = select(patches, hidden).astype(jnp.float32) / 255
  mean, deviation = pixel_statistics(config.masked, truth)
  found = apply(model, params, values_of(patches, config.clip), places=places)
  pixels = found.reshape(*found.shape[:-1], -1, 3) * deviation + mean
  pixels = jnp.round(pixels.reshape(found.shape) * 255).clip(0, 255).astype(jnp.uint8)
  rows = hidden[0]
  grid = places_of(config.model, config.clip)
  parts = (jnp.full_like(pixels, GRAY), pixels)
  gray, filled = (
    uncut(patches.at[:, :, rows].set(part), config.model.patch, grid) for part in parts
  )
  return gray, filled
