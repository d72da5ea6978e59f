# SPDX-License-Identifier: Apache-2.0
"""One example as a pure function of its number: which video, which clip, which crop."""

import dataclasses
from typing import Any

import grain
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from vivit_jax.config import Config
from vivit_jax.data.clips import evaluation_clips, training_clip
from vivit_jax.data.crop import SpatialCrops, draw_crop
from vivit_jax.data.decode import DecodeError
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.data.views import read_clips
from vivit_jax.errors import DataError

ATTEMPTS = 10  # videos tried for one training example before the data counts as unusable

Record = dict[str, Any]


class TrainingExamples:
  """Example number i of an endless stream; depends on (manifest, config, i) alone."""

  def __init__(self, manifest: Manifest, config: Config):
    self._manifest = manifest
    self._config = config
    # Neighbouring seeds must not give shifted copies of the same epochs.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
    self._order = grain.MapDataset.range(len(manifest.videos)).shuffle(seed=seed).repeat()

  def __call__(self, number: int) -> Record:
    """Returns one clip; where its video cannot be read, one of another, also fixed by `number`.

    Args:
      number: of the example; every len(videos) of them make an epoch that shows each video once.

    Returns:
      'video' uint8 [F, H, W, 3]; 'label' (see `label`); 'mask' True; 'id' int32, the video's index
      in the manifest; 'failures', (path, reason) of the videos that could not be read.

    Raises:
      DataError: none of ATTEMPTS videos could be read.
    """
    videos, seed = self._manifest.videos, self._config.seed
    failures: list[tuple[str, str]] = []
    for attempt in range(ATTEMPTS):
      if attempt == 0:
        rng, index = np.random.default_rng([seed, number]), int(self._order[number])
      else:
        rng = np.random.default_rng([seed, number, attempt])
        index = int(rng.integers(len(videos)))
      try:
        clip = self._read(index, rng)
      except DecodeError as error:
        failures.append((error.path, error.reason))
        continue
      return {
        'video': clip,
        'label': label(videos[index], self._manifest),
        'mask': np.bool_(True),
        'id': np.int32(index),
        'failures': failures,
      }
    raise DataError(
      f'{ATTEMPTS} videos of {self._manifest.split}.csv in a row cannot be read; the last is '
      f'{failures[-1][0]}: {failures[-1][1]}'
    )

  def _read(self, index: int, rng: np.random.Generator) -> UInt8[np.ndarray, 'f h w 3']:
    clip, data, augment = self._config.clip, self._config.data, self._config.augment
    with self._manifest.open(index) as reader:
      indices = training_clip(reader.times, clip, rng)
      crop = draw_crop(clip, augment.crop, augment.flip != 'off', rng)
      return reader.read(np.full_like(indices, indices[0]) if data.freeze_time else indices, crop)


@dataclasses.dataclass(frozen=True)
class EvaluationVideos:
  """All views of the video with a given index."""

  manifest: Manifest
  config: Config
  temporal_views: int
  spatial_views: int

  def __call__(self, index: int) -> Record:
    """Returns the views of one video, zeros where it cannot be read.

    Returns:
      'video' uint8 [T * S, F, H, W, 3], the crops of a clip next to each other; 'label', 'id' and
      'failures' as in training; 'mask' whether it could be read.
    """
    failures = []
    try:
      views = read_views(self.manifest, index, self.config, self.temporal_views, self.spatial_views)
    except DecodeError as error:
      failures = [(error.path, error.reason)]
      clip = self.config.clip
      count = self.temporal_views * self.spatial_views
      views = np.zeros((count, clip.frames, clip.height, clip.width, 3), np.uint8)
    return {
      'video': views,
      'label': label(self.manifest.videos[index], self.manifest),
      'mask': np.bool_(not failures),
      'id': np.int32(index),
      'failures': failures,
    }


def read_views(
  manifest: Manifest, index: int, config: Config, temporal_views: int, spatial_views: int
) -> UInt8[np.ndarray, 'v f h w 3']:
  """Returns the views of a video from one decode: uint8 [T * S, F, H, W, 3].

  Raises:
    DecodeError: the video cannot be read.
  """
  clip = config.clip
  crops = SpatialCrops(clip.height, clip.width, spatial_views)
  with manifest.open(index) as reader:
    indices = evaluation_clips(reader.times, clip, temporal_views)
    if config.data.freeze_time:
      indices = np.broadcast_to(indices[:, :1], indices.shape)
    return read_clips(reader, indices, crops)


def read_view(manifest: Manifest, index: int, config: Config) -> UInt8[np.ndarray, 'f h w 3']:
  """Returns the central view of a video, uint8 [F, H, W, 3]; raises DecodeError."""
  return read_views(manifest, index, config, temporal_views=1, spatial_views=1)[0]


def label(
  video: Video, manifest: Manifest
) -> Int32[np.ndarray, ' heads'] | Float32[np.ndarray, ' c']:
  """Returns class ids int32 [heads], or where labels are tags a multi-hot row float32 [C]."""
  if not manifest.multi_label:
    return np.array(video.labels, np.int32)
  row = np.zeros(len(next(iter(manifest.class_names.values()))), np.float32)
  row[list(video.labels)] = 1.0
  return row
