# SPDX-License-Identifier: Apache-2.0
"""Examples as a pure function of their number: which video, clip and crop.

`TrainingExamples` and `EvaluationVideos` turn a number into a `Request` for a video. A `Reader`, in
any process, reads it. If that fails, the next request of the example is tried.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int32, Shaped, UInt8

from vivit_jax.config.schema import Config
from vivit_jax.data.augmentation.augment import draw
from vivit_jax.data.augmentation.mirror import mirrored_classes, mirrored_labels
from vivit_jax.data.augmentation.views import views_of
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.data.order import video_order
from vivit_jax.data.timing import stage
from vivit_jax.data.video.array import FrameArray
from vivit_jax.data.video.lenient import LenientReader
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.data.video.sampling import evaluation_clips, training_clip
from vivit_jax.errors import DataError

ATTEMPTS = 10  # videos to try for one training example before giving up

Failure = tuple[str, str]  # path, reason
Label = Int32[np.ndarray, ' heads'] | Float32[np.ndarray, ' c'] | Float64[np.ndarray, ' 4']
LabeledViews = tuple[UInt8[np.ndarray, 'v f h w 3'], Shaped[np.ndarray, ' label']]


@dataclasses.dataclass(frozen=True)
class Request:
  """One attempt to read an example, with everything that the reader needs to know."""

  number: int  # number of the example
  attempt: int  # counted from 0
  index: int  # index of the video
  video: Video


@runtime_checkable
class Reader(Protocol):
  """Reads the video of a request; small and picklable, so it can be sent to other processes."""

  @property
  def manifest(self) -> Manifest:
    """The manifest without its list of videos."""

  def __call__(self, request: Request) -> LabeledViews:
    """Returns views uint8 [V, F, H, W, 3] and their label; raises DecodeError."""


@runtime_checkable
class Examples(Protocol):
  """A sequence of examples."""

  rows: int  # views per example

  @property
  def reader(self) -> Reader:
    """Returns the reader for the requests."""

  def request(self, number: int, failures: list[Failure]) -> Request | None:
    """Returns the next request after these failures, or None if the example is unreadable."""

  def label(self, number: int) -> Label:
    """Returns the label of an unreadable example."""


@dataclasses.dataclass(frozen=True)
class TrainingReader:
  """Samples and reads one clip; see `Reader`."""

  manifest: Manifest
  config: Config
  videos: int  # number of videos in the split
  mirrored: tuple[tuple[int | None, ...], ...] = ()  # per head: labels when mirrored

  def rng(self, number: int, attempt: int) -> np.random.Generator:
    """Returns the random generator of an attempt; retries first draw a substitute video from it."""
    seed = self.config.seed
    return np.random.default_rng([seed, number, attempt] if attempt else [seed, number])

  def __call__(self, request: Request) -> LabeledViews:
    """Returns one clip uint8 [1, F, H, W, 3] and its label; raises DecodeError."""
    rng = self.rng(request.number, request.attempt)
    if request.attempt:
      rng.integers(self.videos)  # skip the draw of the substitute video
    clip, video = self.config.clip, request.video
    with self.manifest.open(request.index, video) as reader:
      video = labelled(video, reader)
      labels = mirrored_labels(video.labels, self.mirrored) if self.mirrored else video.labels
      indices = training_clip(reader.times, clip, rng)
      if self.config.data.freeze_time:
        indices = np.full_like(indices, indices[0])
      augmentation = draw(clip, self.config.augment, rng, mirrors=labels is not None)
      frames = reader.read(indices, augmentation.crop)
      with stage('augment'), _naming(request):
        pixels = augmentation(frames)
    if augmentation.crop.flip and labels is not None:
      video = dataclasses.replace(video, labels=labels)
    return pixels[None], label(video, self.manifest)


class TrainingExamples:
  """An endless stream of examples; example i depends only on (manifest, config, i)."""

  rows = 1

  def __init__(self, manifest: Manifest, config: Config):
    self._manifest = manifest
    mirrored: tuple[tuple[int | None, ...], ...] = ()
    if config.augment.flip == 'swap_labels':
      mirrored = tuple(mirrored_classes(names) for names in manifest.class_names.values())
    self.reader = TrainingReader(_bare(manifest), config, len(manifest.videos), mirrored)
    self._repeats = config.augment.repeated_augmentation
    self._order = video_order(manifest, config)

  def request(self, number: int, failures: list[Failure]) -> Request:
    """Returns the video of an example or, after failures, a substitute also fixed by `number`.

    Args:
      number: number of the example. An epoch of len(videos) examples shows each video once; with
        `augment.repeated_augmentation` = k, it shows 1/k of the videos k times each, in
        consecutive examples. For `data.balance` see `order.video_order`.
      failures: failures of the previous attempts.

    Raises:
      DataError: ATTEMPTS attempts have failed.
    """
    k = len(failures)
    if k == ATTEMPTS:
      raise DataError(
        f'{ATTEMPTS} videos of {self._manifest.title} in a row cannot be read; the last is '
        f'{failures[-1][0]}: {failures[-1][1]}'
      )
    if k:
      index = int(self.reader.rng(number, k).integers(len(self._manifest.videos)))
    else:
      index = int(self._order[number // self._repeats])
    return Request(number, k, index, self._manifest.videos[index])

  def label(self, number: int) -> Label:
    """Is never called: a training example is never unreadable."""
    raise NotImplementedError


class Reading(NamedTuple):
  """Statistics about reading a video without labels."""

  frames: float  # number of frames in the video, or in its span
  seconds: float  # time from the first of them to the last
  used: float  # number of different frames in the views
  missing: float  # number of further frames that cannot be decoded; replaced by the nearest


@dataclasses.dataclass(frozen=True)
class EvaluationReader:
  """Reads all views of one video; see `Reader`."""

  manifest: Manifest
  config: Config
  temporal_views: int
  spatial_views: int

  def __call__(self, request: Request) -> LabeledViews:
    """Returns views uint8 [T * S, F, H, W, 3] from one decode, and the label; raises DecodeError.

    Frames in several views are decoded and resized once. If the manifest has no labels, a damaged
    video is read as far as possible, and its `Reading` is returned instead of a label.
    """
    clip = self.config.clip
    crops = views_of(clip, self.spatial_views, self.config.test_short_side)
    kind = VideoReader if self.manifest.class_names else LenientReader
    with self.manifest.open(request.index, request.video, kind) as reader:
      indices = evaluation_clips(reader.times, clip, self.temporal_views)
      if self.config.data.freeze_time:
        indices = np.broadcast_to(indices[:, :1], indices.shape)
      frames = reader.read(indices.reshape(-1), crops)  # [T * F, S, H, W, 3]
      clips = frames.reshape(*indices.shape, *frames.shape[1:]).swapaxes(1, 2)
      views = np.ascontiguousarray(clips).reshape(-1, clip.frames, *frames.shape[2:])
      if self.manifest.class_names:
        return views, label(labelled(request.video, reader), self.manifest)
      assert isinstance(reader, LenientReader | FrameArray)  # see `kind`
      used = len(np.unique(indices)) - reader.missing
      return views, np.array(Reading(reader.frames, reader.seconds, used, reader.missing))


class EvaluationVideos:
  """Example i is all views of video i, with the crops of a clip next to each other."""

  def __init__(self, manifest: Manifest, config: Config, temporal_views: int, spatial_views: int):
    self._manifest = manifest
    self.rows = temporal_views * spatial_views
    self.reader = EvaluationReader(_bare(manifest), config, temporal_views, spatial_views)

  def request(self, number: int, failures: list[Failure]) -> Request | None:
    """Returns the only request, or None after a failure."""
    return None if failures else Request(number, 0, number, self._manifest.videos[number])

  def label(self, number: int) -> Label:
    """Returns the label of a video."""
    return label(self._manifest.videos[number], self._manifest)


def _bare(manifest: Manifest) -> Manifest:
  """Returns a manifest without its list of videos, which can be long."""
  return dataclasses.replace(manifest, videos=())


def read_view(manifest: Manifest, index: int, config: Config) -> UInt8[np.ndarray, 'f h w 3']:
  """Returns the central view of a video as uint8 [F, H, W, 3]; raises DecodeError."""
  reader = EvaluationReader(_bare(manifest), config, temporal_views=1, spatial_views=1)
  return reader(Request(index, 0, index, manifest.videos[index]))[0][0]


def labelled(video: Video, reader: VideoReader) -> Video:
  """Returns a video with the labels that were read with its frames, if any."""
  return (
    dataclasses.replace(video, labels=reader.labels) if isinstance(reader, FrameArray) else video
  )


@contextlib.contextmanager
def _naming(request: Request) -> Iterator[None]:
  """Adds the video to an error of a user's augmentation."""
  try:
    yield
  except DataError as error:
    raise DataError(f'video {request.index} ({request.video.path}): {error}') from None


def label(video: Video, manifest: Manifest) -> Label:
  """Returns class ids int32 [heads], or a multi-hot row float32 [C] for multi_label tasks.

  For a manifest without labels, returns zeros in the shape of a `Reading`, float64 [4].
  """
  if not manifest.class_names:
    return np.zeros(len(Reading._fields))
  if not manifest.multi_label:
    unread = (0,) * len(manifest.class_names)  # an item of a user's source that was not read yet
    return np.array(video.labels or unread, np.int32)
  row = np.zeros(len(next(iter(manifest.class_names.values()))), np.float32)
  row[list(video.labels)] = 1.0
  return row
