# SPDX-License-Identifier: Apache-2.0
"""Runs a model on views and sums the logits of each video."""

import dataclasses
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, Float64, Int, Shaped, UInt8
from tqdm import tqdm

from vivit_jax.config.schema import Task
from vivit_jax.errors import EvaluationError
from vivit_jax.evaluate.ranks import hits, metric_names

Apply = Callable[[UInt8[np.ndarray, 'b f h w 3']], Float[np.ndarray, 'b c']]
ApplyBatch = Callable[[Mapping[str, Any]], Float[np.ndarray, 'b c']]

# Logits are rounded to multiples of 2 ** -30 (an error below 1e-9). Sums of such numbers are exact
# in float64 up to 2 ** 23, so results depend on neither batch order nor the number of hosts.
_GRAIN = 2.0**30


def _exact(logits: Float[np.ndarray, 'b c']) -> Float64[np.ndarray, 'b c']:
  """Returns logits rounded so that their sums are exact in any order."""
  with np.errstate(invalid='ignore'):
    return np.round(logits.astype(np.float64) * _GRAIN) / _GRAIN


class VideoAnswer(NamedTuple):
  """A model's prediction for one video."""

  logits: Float64[np.ndarray, ' c']  # mean over views (paper, section 4.2)
  label: Shaped[np.ndarray, ' label']  # as in the batches
  failure: str | None  # why the video could not be read; then ignore the logits


def answers(
  apply: Apply, batches: Iterable[Mapping[str, Any]], views: int
) -> Iterator[VideoAnswer]:
  """Yields the prediction for each video as soon as its views are done; holds one video at a time.

  Args:
    apply: from video uint8 [B, F, H, W, 3] to logits [B, C].
    batches: as in `collect`, from a single process: videos in order, each with all its views.
    views: views per video.
  """
  failures: deque[str] = deque()
  total, left = np.float64(0.0), views
  for batch in batches:
    logits = _exact(np.asarray(apply(batch['video'])))
    failures.extend(reason for _, reason in batch['failures'])
    for row in np.flatnonzero(batch['id'] >= 0):
      total, left = total + logits[row], left - 1
      if not left:
        failure = None if batch['mask'][row] else failures.popleft()
        yield VideoAnswer(total / views, batch['label'][row], failure)
        total, left = np.float64(0.0), views


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """Logits of a manifest's videos, summed over the views processed so far.

  Send the arrays between hosts as bytes: without x64 mode, JAX would round them to float32.
  """

  logit_sums: Float64[np.ndarray, 'videos c']  # over views
  views: Int[np.ndarray, 'videos']  # views summed; 0 = not processed or unreadable
  labels: Int[np.ndarray, 'videos heads'] | Float[np.ndarray, 'videos c']  # -1 while views is 0
  clip_hits: Int[np.ndarray, 'metrics 2']  # single views with the true class in the top 1, top 5
  failures: tuple[tuple[str, str], ...]  # (path, reason) of unreadable videos

  def merge(self, *others: 'Predictions') -> 'Predictions':
    """Returns the combined predictions, equal to those of one process with all views."""
    parts = (self, *others)
    with np.errstate(invalid='ignore'):
      logit_sums = np.sum([part.logit_sums for part in parts], axis=0)
    return Predictions(
      logit_sums=logit_sums,
      views=np.sum([part.views for part in parts], axis=0),
      labels=np.max([part.labels for part in parts], axis=0),
      clip_hits=np.sum([part.clip_hits for part in parts], axis=0),
      failures=tuple(sorted({failure for part in parts for failure in part.failures})),
    )

  def check_complete(self, paths: Sequence[str], views: int, every: int = 1) -> None:
    """Checks that every readable video was evaluated on all of its views.

    Args:
      paths: paths of the manifest's videos.
      views: expected number of views per video.
      every: number of videos of which only the first was to be evaluated.

    Raises:
      EvaluationError: a readable video has a different number of views.
    """
    unreadable = {path for path, _ in self.failures}
    differs = (every * np.flatnonzero(self.views[::every] != views)).tolist()
    wrong = [i for i in differs if paths[i] not in unreadable]
    if wrong:
      first = wrong[0]
      raise EvaluationError(
        f'{len(wrong)} of the {len(paths)} videos do not have the {views} views of the protocol; '
        f'the first is {paths[first]} with {self.views[first]}: no report is written; start the '
        'same command on every host'
      )

  @property
  def seen(self) -> Int[np.ndarray, 'n']:
    """Indices of the videos with at least one view, ascending."""
    return np.flatnonzero(self.views)

  def mean_logits(self) -> Float64[np.ndarray, 'n c']:
    """Returns the mean logits over views of each video in `seen` (paper, section 4.2)."""
    return self.logit_sums[self.seen] / self.views[self.seen, None]


def collect(
  apply: ApplyBatch,
  batches: Iterable[Mapping[str, Any]],
  task: Task,
  *,
  videos: int,
  columns: int | None = None,
  on_failure: Callable[[str, str], None] | None = None,
  progress: bool = False,
) -> Predictions:
  """Sums the logits of all views of each video; memory is O(videos x classes).

  Args:
    apply: from a batch to logits [B, C] of this process's rows.
    batches: each with 'video'; 'label' int [B, heads] or multi-hot float [B, C]; 'mask' bool [B],
      False for rows to leave out (padding, unreadable); 'id' int [B], the video's index in the
      manifest; 'failures', a list of (path, reason).
    task: how labels and logits are laid out.
    videos: length of the manifest.
    columns: C, if it is not that of the task's classes.
    on_failure: called once for each video that could not be read, with path and reason.
    progress: whether to show a progress bar with videos per second and ETA.

  Returns:
    The sums of this process; combine processes with `Predictions.merge`.

  Raises:
    ValueError: an unmasked row has an id outside the manifest.
  """
  multi_label = task.kind == 'multi_label'
  classes = sum(task.classes)
  total = Predictions(
    logit_sums=np.zeros((videos, classes if columns is None else columns)),
    views=np.zeros(videos, np.int64),
    labels=np.full(
      (videos, classes if multi_label else len(task.heads)), -1, np.float32 if multi_label else int
    ),
    clip_hits=np.zeros((len(metric_names(task)) if task.kind == 'single_label' else 0, 2), int),
    failures=(),
  )
  failures: dict[tuple[str, str], None] = {}
  with tqdm(total=videos, unit='video', desc='evaluate', disable=not progress) as bar:
    for batch in batches:
      before = np.count_nonzero(total.views)
      # Also run batches of padding only: other hosts may wait in the same collective.
      _add(total, np.asarray(apply(batch)), batch, task)
      bar.update(np.count_nonzero(total.views) - before)
      for path, reason in batch['failures']:
        if (path, reason) not in failures:
          failures[path, reason] = None
          if on_failure is not None:
            on_failure(path, reason)
  return dataclasses.replace(total, failures=tuple(sorted(failures)))


def _add(
  total: Predictions, logits: Float[np.ndarray, 'b c'], batch: Mapping[str, Any], task: Task
) -> None:
  """Adds the rows of a batch to the arrays of `total`."""
  mask = batch['mask']
  ids, labels, logits = batch['id'][mask], batch['label'][mask], logits[mask]
  if ids.size and not 0 <= ids.min() <= ids.max() < len(total.views):
    raise ValueError(
      f'batch has video ids {ids.min()} to {ids.max()}, but the manifest has {len(total.views)} '
      'videos: mask padding rows'
    )
  with np.errstate(invalid='ignore'):
    np.add.at(total.logit_sums, ids, _exact(logits))
  np.add.at(total.views, ids, 1)
  total.labels[ids] = labels[:, : total.labels.shape[1]]  # without labels, batches have a Reading
  if task.kind == 'single_label':
    total.clip_hits[:] += hits(logits, labels, task).sum(axis=0)


def merged_over_hosts(mine: Predictions) -> Predictions:
  """Returns the predictions merged over all processes, in every process.

  Each process sends only the rows of its own videos.
  """
  if jax.process_count() == 1:
    return mine
  total = None
  for content in _gather(_pack(mine)):
    part = _unpack(content, mine)
    total = part if total is None else total.merge(part)
  assert total is not None
  return total


ARRAYS = ('logit_sums', 'views', 'labels')  # arrays with one row per video


def _pack(mine: Predictions) -> bytes:
  buffer = io.BytesIO()
  rows = {name: getattr(mine, name)[mine.seen] for name in ARRAYS}
  failures = np.frombuffer(json.dumps(mine.failures).encode(), np.uint8)
  np.savez(buffer, seen=mine.seen, clip_hits=mine.clip_hits, failures=failures, **rows)
  return buffer.getvalue()


def _unpack(content: bytes, like: Predictions) -> Predictions:
  """Returns the predictions of another process for the same videos as `like`."""
  stored = np.load(io.BytesIO(content), allow_pickle=False)
  arrays = {}
  for name in ARRAYS:
    whole = getattr(like, name)
    arrays[name] = np.full_like(whole, -1 if name == 'labels' else 0)
    arrays[name][stored['seen']] = stored[name]
  failures = tuple((path, reason) for path, reason in json.loads(stored['failures'].tobytes()))
  return dataclasses.replace(like, clip_hits=stored['clip_hits'], failures=failures, **arrays)


def _gather(content: bytes) -> list[bytes]:
  """Returns the bytes of all processes in every process; bytes, because JAX rounds float64."""
  sizes = multihost_utils.process_allgather(np.int32(len(content)))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(content)] = np.frombuffer(content, np.uint8)
  everyone = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes() for row, size in zip(everyone, sizes, strict=True)]
