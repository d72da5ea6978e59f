# SPDX-License-Identifier: Apache-2.0
"""Weights of classes in the loss: as configured, or by how many training videos classes have."""

import numpy as np
from jaxtyping import Float32

from vivit_jax.config.schema import Config, head_slices
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.order import videos_by_class
from vivit_jax.errors import ConfigError, nearest


def class_weights(config: Config, data: Manifest) -> Float32[np.ndarray, ' c'] | None:
  """Returns a factor of each class's term in the loss, over all heads, or None where all are 1.

  With `train.balanced_loss` a class of n_c of the n videos that a head labels has n / (k n_c), with
  k the head's classes that have a video, so that the mean over the videos is 1; classes without a
  video have 1. Of tags, n counts labels instead of videos.

  Args:
    config: its `train` section says which.
    data: training videos.

  Raises:
    ConfigError: a name that no class has, two heads have, or that stands there twice.
  """
  train = config.train
  if not train.balanced_loss and not train.class_weights:
    return None
  weights = np.ones(sum(config.task.classes), np.float32)
  if train.balanced_loss:
    for head, part in head_slices(config.task).items():
      counts = np.array([len(own) for own in videos_by_class(data, head)[: part.stop - part.start]])
      seen = counts > 0
      weights[part][seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights
  places = _places(config, data)
  given = set()
  for name, weight in train.class_weights:
    if name not in places:
      raise ConfigError(
        f'config.train.class_weights names {name!r}, which is no class{nearest(name, places)}'
      )
    place = places[name]
    if len(place) > 1:
      heads = ' or '.join(f"'{head}:{name}'" for head, _ in place)
      raise ConfigError(f'config.train.class_weights names {name!r}: write {heads}')
    ((_, at),) = place
    if at in given:
      raise ConfigError(f'config.train.class_weights names {name!r} twice: remove one of them')
    given.add(at)
    weights[at] = weight
  return weights


def _places(config: Config, data: Manifest) -> dict[str, list[tuple[str, int]]]:
  """Returns head and place along the class axis of each class, by name and by 'head:name'."""
  found: dict[str, list[tuple[str, int]]] = {}
  for head, part in head_slices(config.task).items():
    for at, name in enumerate(data.class_names[head], part.start):
      found.setdefault(name, []).append((head, at))
      found.setdefault(f'{head}:{name}', []).append((head, at))
  return found
