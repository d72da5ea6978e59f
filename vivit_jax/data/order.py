# SPDX-License-Identifier: Apache-2.0
"""Which video an example of training shows: shuffled epochs, or all classes equally often."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from vivit_jax.config.schema import Config
from vivit_jax.data.manifest import Manifest
from vivit_jax.errors import ConfigError


@runtime_checkable
class Order(Protocol):
  """An endless list of indices of videos."""

  def __getitem__(self, position: int) -> int:
    """Returns the video of an example."""


def video_order(manifest: Manifest, config: Config) -> Order:
  """Returns the order of the videos; a function of (labels, seed, position) alone.

  By default each epoch of len(videos) shows every video once. With `data.balance` each group of as
  many examples as that head has classes shows every class once, in an order of its own, and a class
  shows all its videos before one comes again. Classes without a video are left out. Where labels
  are tags, a video counts for each of its tags, and videos without one are a class of their own.
  """
  if config.data.balance is None:
    return _shuffled(len(manifest.videos), config.seed)
  return _ClassBalanced(videos_by_class(manifest, config.data.balance), config.seed)


def videos_by_class(manifest: Manifest, head: str) -> list[list[int]]:
  """Returns the indices of each class's videos; of a head with tags, last those without a tag.

  Raises:
    ConfigError: a source of one's own that does not tell its labels in advance.
  """
  if not manifest.labels_known:
    raise ConfigError(
      'classes are counted before videos are read, by config.data.balance and '
      "config.train.balanced_loss: give your source 'labels', those of all items"
    )
  names = list(manifest.class_names)
  found: list[list[int]] = [[] for _ in manifest.class_names[head]]
  if manifest.multi_label:
    found.append([])
  for i, video in enumerate(manifest.videos):
    labels = video.labels if manifest.multi_label else (video.labels[names.index(head)],)
    for label in labels or (-1,):
      found[label].append(i)
  return found


class _ClassBalanced:
  def __init__(self, videos: Sequence[Sequence[int]], seed: int):
    self._videos = [own for own in videos if own]
    self._classes = _shuffled(len(self._videos), seed)
    self._orders = [_shuffled(len(own), seed, k + 1) for k, own in enumerate(self._videos)]

  def __getitem__(self, position: int) -> int:
    shown = int(self._classes[position])
    times = position // len(self._videos)  # that the class was shown before
    return self._videos[shown][int(self._orders[shown][times])]


def _shuffled(count: int, *key: int) -> Order:
  import grain  # late: processes that decode do without

  # Neighbouring seeds must not give shifted copies of the same epochs.
  seed = int(np.random.SeedSequence(key).generate_state(1)[0])
  return grain.MapDataset.range(count).shuffle(seed=seed).repeat()
