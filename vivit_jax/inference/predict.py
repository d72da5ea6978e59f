# SPDX-License-Identifier: Apache-2.0
"""Predictions of a checkpoint for video files, implemented as an evaluation without labels."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from vivit_jax.config.parse import check_views
from vivit_jax.config.schema import Config, Data, Evaluate, usual_views
from vivit_jax.data.examples import Reading
from vivit_jax.data.index.videos import collect_videos
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.data.pipeline import evaluation_batches
from vivit_jax.data.video.array import FrameArray
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate import predictions as printer
from vivit_jax.evaluate.accumulate import answers
from vivit_jax.evaluate.prediction_files import check_target, prediction_file
from vivit_jax.evaluate.predictions import NOT_FINITE, Prediction, Protocol, most_probable
from vivit_jax.evaluate.ranks import probabilities
from vivit_jax.weights.pretrained import Pretrained
from vivit_jax.weights.source import Source

MANY = 16  # videos from which decoding processes are worth half a second of startup
ASSUMED_STRIDE = 2  # as in the paper's recipes, if the checkpoint has none; always reported


def run(
  pretrained: Pretrained,
  videos: Sequence[str | Path],
  *,
  views: tuple[int, int] | None = None,
  top: int = 5,
  stride: int | None = None,
  batch_size: int = 8,
  as_json: bool = False,
  output: Path | None = None,
  progress: bool = True,
) -> int:
  """Prints predictions for videos, or writes them; the body of `vivit predict`.

  Args:
    pretrained: result of load_pretrained.
    videos: files, folders and CSV files, see collect_videos.
    views: temporal x spatial views; None = see `usual_views`.
    top, stride, batch_size: as in `predict`.
    as_json: print JSON instead of a table.
    output: instead of printing, write this new .csv or .parquet file with all probabilities.
    progress: whether to show a progress bar if standard error is a terminal.

  Returns:
    The exit code: 1 if a video has no prediction.

  Raises:
    UserError: arguments or checkpoint are invalid; raised before anything is decoded.
  """
  temporal_views, spatial_views = views or usual_views(pretrained.source.preprocessing)
  protocol = make_protocol(pretrained.source, temporal_views, spatial_views, stride)
  if output is not None:
    check_target(output, '--output')
  jobs = collect_videos(videos)
  found = predict(
    pretrained,
    jobs,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
    top=top,
    stride=stride,
    batch_size=batch_size,
    progress=progress,
  )
  if output is not None:
    return _write(output, pretrained.source, jobs, found)
  predictions = list(found)
  show = printer.as_json if as_json else printer.as_table
  print(show(predictions, protocol))
  return int(any(prediction.error for prediction in predictions))


FACTS = {
  'path': str,
  'start': float,
  'end': float,
  'frames': int,
  'seconds': float,
  'used': int,
  'missing': int,
  'error': str,
}


def _write(
  output: Path, source: Source, videos: Sequence[Video], predictions: Iterator[Prediction]
) -> int:
  """Writes predictions as they are computed and returns the exit code."""
  assert source.task is not None  # see make_protocol
  failed = 0
  with prediction_file(output, source.task, source.labels, FACTS) as file:
    for video, found in zip(videos, predictions, strict=True):
      failed += found.error is not None
      known = {**vars(video), **vars(found)}
      file.write([known[name] for name in FACTS], np.array(found.shares) if found.shares else None)
  failures = f'; {failed:,} have no prediction' if failed else ''
  print(f'{len(videos):,} videos -> {output}{failures}')
  return int(failed > 0)


def predict(
  pretrained: Pretrained,
  videos: Sequence[Video | Path | str | FrameArray],
  *,
  temporal_views: int | None = None,
  spatial_views: int | None = None,
  top: int = 5,
  stride: int | None = None,
  batch_size: int = 8,
  progress: bool = False,
) -> Iterator[Prediction]:
  """Yields predictions in the order of the videos, each as soon as all its views are done.

  Logits are averaged over temporal x spatial views (paper, section 4.2). One program is compiled
  for batches of `batch_size` views, which may be from several videos.

  Args:
    pretrained: model, parameters, labels and preprocessing.
    videos: files, spans of files, or frames in memory, which are named `frames 0` and so on.
    temporal_views, spatial_views: clips per video and crops per clip; None = see `usual_views`.
    top: number of labels per head.
    stride: stride between the frames of a clip, instead of the checkpoint's.
    batch_size: views per batch.
    progress: whether to show a progress bar with ETA if standard error is a terminal.

  Raises:
    ConfigError: a number is below 1, or the views need too much memory.
    CheckpointError: there is no classifier, or the value range is unknown.
  """
  protocol = make_protocol(pretrained.source, temporal_views, spatial_views, stride)
  if min(top, batch_size) < 1:
    raise ConfigError(f'top={top} and batch_size={batch_size} must be at least 1')
  items = tuple(video for video in videos if isinstance(video, FrameArray))
  jobs = [
    video
    if isinstance(video, Video)
    else Video(f'frames {k}' if items else str(video), None, None, ())
    for k, video in enumerate(videos)
  ]
  assert len(items) in (0, len(jobs))
  if not jobs:
    return iter(())
  rows = min(batch_size, protocol.views * len(jobs))
  config = experiment(pretrained.source, protocol, rows)
  if len(jobs) < MANY:
    config = dataclasses.replace(config, data=Data(workers=0))
  manifest = dataclasses.replace(unlabelled(jobs), items=items or None)
  return _stream(pretrained, manifest, protocol, top, config, progress)


def make_protocol(
  source: Source,
  temporal_views: int | None = None,
  spatial_views: int | None = None,
  stride: int | None = None,
  needs_classifier: bool = True,
) -> Protocol:
  """Returns the preprocessing of videos for a checkpoint; see `predict` for arguments and errors.

  For features, use `needs_classifier=False`, since they do not need a classifier.
  """
  usual = usual_views(source.preprocessing)
  temporal_views = usual[0] if temporal_views is None else temporal_views
  spatial_views = usual[1] if spatial_views is None else spatial_views
  if min(temporal_views, spatial_views, 1 if stride is None else stride) < 1:
    raise ConfigError(
      f'views={temporal_views}x{spatial_views} and stride={stride} must be at least 1'
    )
  wants, (mean, std) = source.preprocessing, source.normalization(needs_classifier)
  clip = wants.clip(source.frames, source.height, source.width)
  check_views(temporal_views, spatial_views, clip)
  said: Literal['argument', 'checkpoint', 'assumed']
  said = 'argument' if stride else 'checkpoint' if wants.stride else 'assumed'
  return Protocol(
    frames=source.frames,
    stride=stride or wants.stride or ASSUMED_STRIDE,
    stride_from=said,
    stride_seconds=None if stride else wants.stride_seconds,
    sampling='stride' if stride else wants.sampling,
    height=source.height,
    width=source.width,
    short_side=source.short_side,
    resize=wants.resize,
    interpolation=wants.interpolation,
    mean=mean,
    std=std,
    channels=wants.channels,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
  )


def experiment(source: Source, protocol: Protocol, batch_size: int = 1) -> Config:
  """Returns the config for evaluating a checkpoint with this protocol."""
  assert source.task is not None  # see make_protocol
  evaluate = Evaluate(
    protocol.temporal_views, protocol.spatial_views, protocol.short_side, batch_size
  )
  return Config(task=source.task, model=source.model, clip=protocol.clip, evaluate=evaluate)


def unlabelled(videos: Sequence[Video]) -> Manifest:
  """Returns a manifest of videos without labels, for prediction."""
  return Manifest('predict', tuple(videos), {}, '', multi_label=False)


def _stream(
  pretrained: Pretrained,
  manifest: Manifest,
  protocol: Protocol,
  top: int,
  config: Config,
  progress: bool,
) -> Iterator[Prediction]:
  """Yields predictions; batches span several videos, so only the last one has padding."""
  task, labels = config.task, pretrained.source.labels
  batches = evaluation_batches(
    manifest,
    config,
    temporal_views=protocol.temporal_views,
    spatial_views=protocol.spatial_views,
    batch_size=config.evaluate.batch_size,
  )
  disable = None if progress else True  # None: unless standard error is a terminal
  shown = tqdm(manifest.videos, unit='video', desc='predict', disable=disable)
  with contextlib.closing(batches):
    for video, found in zip(
      shown, answers(pretrained.logits, batches, protocol.views), strict=True
    ):
      if found.failure is not None:
        yield Prediction(video.path, {}, error=found.failure)
        continue
      reading = Reading(*found.label)
      prediction = Prediction(
        video.path,
        {},
        int(reading.frames),
        reading.seconds,
        int(reading.used),
        int(reading.missing),
      )
      if np.isfinite(found.logits).all():
        heads = most_probable(found.logits, task, labels, top)
        shares = tuple(probabilities(found.logits[None], task)[0].tolist())
        yield dataclasses.replace(prediction, heads=heads, shares=shares)
      else:
        yield dataclasses.replace(prediction, error=NOT_FINITE)
