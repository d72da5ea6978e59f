# SPDX-License-Identifier: Apache-2.0
"""Class weights in the loss: as configured, or balanced by the number of training videos."""

import numpy as np
from jaxtyping import Float32

from vivit_jax.config.schema import Config, head_slices
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.order import videos_by_class
from vivit_jax.errors import ConfigError, nearest


def class_weights(config: Config, data: Manifest) -> Float32[np.ndarray, ' c'] | None:
  """Returns the weight of each class in the loss, over all heads, or None if all are 1.

  With `train.balanced_loss`, a class with n_c of the n videos of a head has the weight n / (k n_c),
  where k is the number of the head's classes that have videos. The mean weight over videos is 1.
  Classes without videos have the weight 1. For multi_label, n counts labels instead of videos.

  Args:
    config: its `train` section has the class weights.
    data: training videos.

  Raises:
    ConfigError: a class name is unknown, ambiguous between heads, or given twice.
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
        f'config.train.class_weights names {name!r}, which is not a class{nearest(name, places)}'
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
  """Returns head and index along the class axis of each class, by 'name' and by 'head:name'."""
  found: dict[str, list[tuple[str, int]]] = {}
  for head, part in head_slices(config.task).items():
    for at, name in enumerate(data.class_names[head], part.start):
      found.setdefault(name, []).append((head, at))
      found.setdefault(f'{head}:{name}', []).append((head, at))
  return found
