# SPDX-License-Identifier: Apache-2.0
"""Order of the videos in training: shuffled epochs, or all classes equally often."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from vivit_jax.config.schema import Config
from vivit_jax.data.manifest import Manifest
from vivit_jax.errors import ConfigError


@runtime_checkable
class Order(Protocol):
  """An endless sequence of video indices."""

  def __getitem__(self, position: int) -> int:
    """Returns the index of the video for an example."""


def video_order(manifest: Manifest, config: Config) -> Order:
  """Returns the order of the videos, which depends only on (labels, seed, position).

  By default, each epoch of len(videos) examples shows every video once. With `data.balance`, every
  group of C examples, with C the number of classes of that head, shows every class once in random
  order, and every class cycles through all its videos. Classes without videos are skipped. With
  multi_label, a video belongs to each of its tags, and videos without tags form one more class.
  """
  if config.data.balance is None:
    return _shuffled(len(manifest.videos), config.seed)
  return _ClassBalanced(videos_by_class(manifest, config.data.balance), config.seed)


def videos_by_class(manifest: Manifest, head: str) -> list[list[int]]:
  """Returns the video indices of each class; for multi_label, last those without a tag.

  Raises:
    ConfigError: a user's own source does not provide its labels in advance.
  """
  if not manifest.labels_known:
    raise ConfigError(
      'config.data.balance and config.train.balanced_loss need the labels before videos are read: '
      "add an attribute 'labels' to your source, with the labels of all items"
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
    times = position // len(self._videos)  # number of times the class was shown before
    return self._videos[shown][int(self._orders[shown][times])]


def _shuffled(count: int, *key: int) -> Order:
  import grain  # late, since decoder processes do not need it

  # A hash, since neighboring seeds could give shifted copies of the same epochs.
  seed = int(np.random.SeedSequence(key).generate_state(1)[0])
  return grain.MapDataset.range(count).shuffle(seed=seed).repeat()
