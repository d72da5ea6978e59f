# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about video files: every view of each decoded once, logits averaged."""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from vivit_jax.config.parse import check_views
from vivit_jax.config.schema import Clip, Task, head_slices
from vivit_jax.data.index.videos import collect_videos
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.data.views import Protocol, read_all_views
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate import predictions as page
from vivit_jax.evaluate.predictions import Prediction
from vivit_jax.weights.pretrained import Pretrained
from vivit_jax.weights.source import Source

ASSUMED_STRIDE = 2  # of the paper's recipes, where a checkpoint does not say; always reported
DECODERS = 2  # videos read side by side while the model runs; each holds its views in memory


def run(
  pretrained: Pretrained,
  videos: Sequence[str | Path],
  *,
  views: tuple[int, int] = (4, 3),
  top: int = 5,
  stride: int | None = None,
  batch_size: int = 8,
  as_json: bool = False,
  progress: bool = True,
) -> int:
  """Prints what a checkpoint says about videos; the body of `vivit predict`.

  Args:
    pretrained: of load_pretrained.
    videos: files, folders and CSV files, see collect_videos.
    views: temporal x spatial.
    top, stride, batch_size: as in `predict`.
    as_json: instead of a table.
    progress: on standard error, where that is a terminal.

  Returns:
    The exit code: 1 if a video has no answer.

  Raises:
    UserError: arguments or a checkpoint that cannot be used, before anything is decoded.
  """
  protocol = make_protocol(pretrained.source, *views, stride)
  answers = predict(
    pretrained,
    collect_videos(videos),
    temporal_views=views[0],
    spatial_views=views[1],
    top=top,
    stride=stride,
    batch_size=batch_size,
    progress=progress,
  )
  predictions = list(answers)
  if as_json:
    print(page.as_json(predictions, dataclasses.asdict(protocol)))
  else:
    print(page.as_table(predictions, str(protocol)))
  return int(any(prediction.error for prediction in predictions))


def predict(
  pretrained: Pretrained,
  videos: Sequence[Video | Path | str],
  *,
  temporal_views: int = 4,
  spatial_views: int = 3,
  top: int = 5,
  stride: int | None = None,
  batch_size: int = 8,
  progress: bool = False,
) -> Iterator[Prediction]:
  """Returns predictions in the order of the videos, each as soon as all its views are done.

  Logits are averaged over temporal x spatial views (paper, section 4.2). One program is compiled,
  for batches of `batch_size` views, whichever videos they come from.

  Args:
    pretrained: model, parameters, labels and preprocessing.
    videos: files, or spans of files.
    temporal_views, spatial_views: clips spread over a video, and crops of each.
    top: labels per head.
    stride: between the frames of a clip, instead of the checkpoint's.
    batch_size: views at a time.
    progress: shows videos per second and the time left, where standard error is a terminal.

  Raises:
    ConfigError: a number below 1, or views that take too much memory.
    CheckpointError: no classifier, or no value range.
  """
  protocol = make_protocol(pretrained.source, temporal_views, spatial_views, stride)
  if min(top, batch_size) < 1:
    raise ConfigError(f'top={top} and batch_size={batch_size} must be at least 1')
  jobs = [v if isinstance(v, Video) else Video(str(v), None, None, ()) for v in videos]
  rows = max(1, min(batch_size, protocol.views * len(jobs)))
  return _stream(pretrained, jobs, protocol, top, rows, progress)


def make_protocol(
  source: Source, temporal_views: int = 4, spatial_views: int = 3, stride: int | None = None
) -> Protocol:
  """Returns how videos are prepared for a checkpoint; see `predict` for arguments and errors."""
  if min(temporal_views, spatial_views, 1 if stride is None else stride) < 1:
    raise ConfigError(
      f'views={temporal_views}x{spatial_views} and stride={stride} must be at least 1'
    )
  wants, (low, high) = source.preprocessing, source.values()
  clip = Clip(source.frames, height=source.height, width=source.width)
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
    low=low,
    high=high,
    channels=wants.channels,
    temporal_views=temporal_views,
    spatial_views=spatial_views,
  )


@dataclasses.dataclass(eq=False)
class _Entry:
  """A video whose views are on their way through the model."""

  prediction: Prediction
  left: int  # views without logits
  logits: Any = 0.0  # their sum so far


def _stream(
  pretrained: Pretrained,
  videos: list[Video],
  protocol: Protocol,
  top: int,
  batch_size: int,
  progress: bool,
) -> Iterator[Prediction]:
  """Yields predictions; batches fill up across videos, so that only the last one has a rest."""
  task, labels = cast(Task, pretrained.source.task), pretrained.source.labels
  waiting: deque[_Entry] = deque()
  rows: list[tuple[np.ndarray, _Entry]] = []

  def run_batch() -> None:
    batch = np.zeros((batch_size, *rows[0][0].shape), np.uint8)
    for place, (view, _) in zip(batch, rows, strict=False):
      place[:] = view
    for (_, entry), logits in zip(rows, pretrained.logits(batch), strict=False):
      entry.logits = entry.logits + logits.astype(np.float64)
      entry.left -= 1
    del rows[:batch_size]

  def finished() -> Iterator[Prediction]:
    while waiting and not waiting[0].left:
      entry = waiting.popleft()
      bar.update()
      if entry.prediction.error is None:
        yield _with_labels(entry.prediction, entry.logits / protocol.views, task, labels, top)
      else:
        yield entry.prediction

  quiet = None if progress else True  # None: where standard error is a terminal
  with tqdm(total=len(videos), unit='video', desc='predict', disable=quiet) as bar:
    for prediction, pixels in _ahead(functools.partial(_read, protocol=protocol), videos):
      waiting.append(_Entry(prediction, len(pixels)))
      rows.extend((view, waiting[-1]) for view in pixels)
      while len(rows) >= batch_size:
        run_batch()
      yield from finished()
    if rows:
      run_batch()
    yield from finished()


def _read(video: Video, protocol: Protocol) -> tuple[Prediction, Sequence[np.ndarray]]:
  """Returns a prediction that lacks its labels, and the views; or one with an error, and none."""
  try:
    views = read_all_views(video, protocol)
  except DecodeError as error:
    return Prediction(video.path, {}, error=error.reason), []
  used = len(np.unique(views.indices)) - views.missing
  found = Prediction(video.path, {}, views.frames, views.seconds, used, views.missing)
  return found, list(views.pixels)


def _ahead(read: Callable, videos: Sequence[Video]) -> Iterator[Any]:
  """Yields read(video) in order, a few videos ahead of who asks, in threads."""
  with ThreadPoolExecutor(DECODERS) as pool:
    queue: deque[Future] = deque()
    for video in videos:
      queue.append(pool.submit(read, video))
      if len(queue) > DECODERS:
        yield queue.popleft().result()
    while queue:
      yield queue.popleft().result()


def _with_labels(
  prediction: Prediction,
  logits: Float64[np.ndarray, ' c'],
  task: Task,
  labels: tuple[str, ...] | None,
  top: int,
) -> Prediction:
  """Returns the prediction with the likeliest labels of each head."""
  if not np.isfinite(logits).all():
    return dataclasses.replace(prediction, error='the model gives logits that are not finite')
  heads = {}
  for head, part in head_slices(task).items():
    own = logits[part]
    if task.kind == 'multi_label':
      shares = np.exp(-np.logaddexp(0.0, -own))
    else:
      shares = np.exp(own - own.max())
      shares /= shares.sum()
    names = labels[part] if labels else [f'class {i}' for i in range(len(own))]
    best = np.argsort(-shares, kind='stable')[:top]
    heads[head] = tuple((names[i], float(shares[i])) for i in best)
  return dataclasses.replace(prediction, heads=heads)
