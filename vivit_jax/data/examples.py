# SPDX-License-Identifier: Apache-2.0
"""One example as a pure function of its number: which video, which clip, which crop.

An example is told (by `TrainingExamples` or `EvaluationVideos`) as one attempt after the other,
until one of them can be read (by a `Reader`, which any process can do).
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

ATTEMPTS = 10  # videos tried for one training example before the data counts as unusable

Failure = tuple[str, str]  # path, reason
Label = Int32[np.ndarray, ' heads'] | Float32[np.ndarray, ' c'] | Float64[np.ndarray, ' 4']
LabeledViews = tuple[UInt8[np.ndarray, 'v f h w 3'], Shaped[np.ndarray, ' label']]


@dataclasses.dataclass(frozen=True)
class Request:
  """One try at an example, and all that its reader does not know yet."""

  number: int  # of the example
  attempt: int  # from 0
  index: int  # of the video
  video: Video


@runtime_checkable
class Reader(Protocol):
  """Does one attempt; small, and can be sent to other processes."""

  @property
  def manifest(self) -> Manifest:
    """Where videos are; without the list of them."""

  def __call__(self, request: Request) -> LabeledViews:
    """Returns views, uint8 [V, F, H, W, 3], and their label; raises DecodeError."""


@runtime_checkable
class Examples(Protocol):
  """A stream of examples by number."""

  rows: int  # views of one example

  @property
  def reader(self) -> Reader:
    """Does their attempts."""

  def request(self, number: int, failures: list[Failure]) -> Request | None:
    """Returns what to try after these failures; None: the example is unreadable."""

  def label(self, number: int) -> Label:
    """Returns that of an unreadable example."""


@dataclasses.dataclass(frozen=True)
class TrainingReader:
  """Draws and reads one clip; see `Reader`."""

  manifest: Manifest
  config: Config
  videos: int  # of the split
  mirrored: tuple[tuple[int | None, ...], ...] = ()  # per head, where labels follow the mirror

  def rng(self, number: int, attempt: int) -> np.random.Generator:
    """Returns what an attempt draws from; each first one where it looks for a substitute."""
    seed = self.config.seed
    return np.random.default_rng([seed, number, attempt] if attempt else [seed, number])

  def __call__(self, request: Request) -> LabeledViews:
    """Returns one clip, uint8 [1, F, H, W, 3], and its label; raises DecodeError."""
    rng = self.rng(request.number, request.attempt)
    if request.attempt:
      rng.integers(self.videos)  # drew the video
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
  """Example number i of an endless stream; depends on (manifest, config, i) alone."""

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
    """Returns the video of an example, or after failures a substitute fixed by `number` too.

    Args:
      number: of the example; every len(videos) of them make an epoch that shows each video once,
        or with `augment.repeated_augmentation` = k every k-th video k times, in clips of
        consecutive numbers. With `data.balance` see `order.video_order`.
      failures: of the attempts before.

    Raises:
      DataError: ATTEMPTS of them failed.
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
    """Is never asked for: every training example is readable."""
    raise NotImplementedError


class Reading(NamedTuple):
  """How a video without labels was read."""

  frames: float  # of the video, or of its span
  seconds: float  # from the first of them to the last
  used: float  # different frames that the views show
  missing: float  # more that they would show, but that cannot be decoded; the nearest stand in


@dataclasses.dataclass(frozen=True)
class EvaluationReader:
  """Reads all views of one video; see `Reader`."""

  manifest: Manifest
  config: Config
  temporal_views: int
  spatial_views: int

  def __call__(self, request: Request) -> LabeledViews:
    """Returns views from one decode, uint8 [T * S, F, H, W, 3], their label; raises DecodeError.

    A frame that several views show is decoded and resized once. If the manifest has no labels, a
    damaged video is read as far as it can be, and its `Reading` stands in for the label.
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
  """All views of the video with a given index, the crops of a clip next to each other."""

  def __init__(self, manifest: Manifest, config: Config, temporal_views: int, spatial_views: int):
    self._manifest = manifest
    self.rows = temporal_views * spatial_views
    self.reader = EvaluationReader(_bare(manifest), config, temporal_views, spatial_views)

  def request(self, number: int, failures: list[Failure]) -> Request | None:
    """Returns the only attempt there is."""
    return None if failures else Request(number, 0, number, self._manifest.videos[number])

  def label(self, number: int) -> Label:
    """Returns the label of a video."""
    return label(self._manifest.videos[number], self._manifest)


def _bare(manifest: Manifest) -> Manifest:
  """Returns a manifest without its videos, which can be many."""
  return dataclasses.replace(manifest, videos=())


def read_view(manifest: Manifest, index: int, config: Config) -> UInt8[np.ndarray, 'f h w 3']:
  """Returns the central view of a video, uint8 [F, H, W, 3]; raises DecodeError."""
  reader = EvaluationReader(_bare(manifest), config, temporal_views=1, spatial_views=1)
  return reader(Request(index, 0, index, manifest.videos[index]))[0][0]


def labelled(video: Video, reader: VideoReader) -> Video:
  """Returns a video with the labels that came with its frames, if any did."""
  return (
    dataclasses.replace(video, labels=reader.labels) if isinstance(reader, FrameArray) else video
  )


@contextlib.contextmanager
def _naming(request: Request) -> Iterator[None]:
  """Says at which video a user's augmentation failed."""
  try:
    yield
  except DataError as error:
    raise DataError(f'video {request.index} ({request.video.path}): {error}') from None


def label(video: Video, manifest: Manifest) -> Label:
  """Returns class ids int32 [heads], or where labels are tags a multi-hot row float32 [C].

  Of a manifest without labels, zeros for a `Reading`, float64 [4].
  """
  if not manifest.class_names:
    return np.zeros(len(Reading._fields))
  if not manifest.multi_label:
    unread = (0,) * len(manifest.class_names)  # an item of a source, which gives its labels itself
    return np.array(video.labels or unread, np.int32)
  row = np.zeros(len(next(iter(manifest.class_names.values()))), np.float32)
  row[list(video.labels)] = 1.0
  return row
