# SPDX-License-Identifier: Apache-2.0
"""Which settings masked pretraining can have."""

import math
from typing import Any

from vivit_jax.config.schema import Clip, Config, Masked, Mix, Model, Task, Train
from vivit_jax.errors import ConfigError

# Settings of classification that a masked task has no use for, by section, and their defaults.
SUPERVISED: dict[str, tuple[Any, tuple[str, ...]]] = {
  'task': (Task(kind='masked', classes=()), ('classes', 'joint')),
  'train': (Train(), ('label_smoothing', 'class_weights', 'balanced_loss')),
  'mix': (Mix(), ('mixup', 'cutmix')),
}


def places_of(model: Model, clip: Clip) -> tuple[int, int]:
  """Returns the rows and columns of the patch grid of a frame."""
  _, height, width = model.patch
  return clip.height // height, clip.width // width


def visible_places(masked: Masked, places: int) -> int:
  """Returns how many of the places of the patch grid stay visible, as VideoMAE rounds it."""
  return places - int(masked.ratio * places)


def check_masked(config: Config) -> None:
  """Refuses settings that contradict a masked task.

  Raises:
    ConfigError: naming the setting, its value and the remedy.
  """
  model, masked = config.model, config.masked
  for section, (default, names) in SUPERVISED.items():
    for name in names:
      if (held := getattr(getattr(config, section), name)) != getattr(default, name):
        raise ConfigError(
          f'config.{section}.{name}={held!r} is for classification, but '
          f"config.task.kind='masked' predicts pixels: leave it at {getattr(default, name)!r}"
        )
  if config.data.balance is not None:
    raise ConfigError(
      f"config.data.balance={config.data.balance!r} needs labels, but config.task.kind='masked' "
      'trains without them: leave it out'
    )
  if model.attention == 'factorised_encoder':
    raise ConfigError(
      "config.model.attention='factorised_encoder' pools patches before time, so that no decoder "
      "could tell them apart: pretrain 'factorised_encoder_by_patch', whose weights start it"
    )
  if model.pooling != 'none':
    raise ConfigError(
      f'config.model.pooling={model.pooling!r} leaves one token, but a masked task decodes all of '
      "them: use 'none'; fine-tuning pools"
    )
  if model.positions not in ('learned', 'sincos'):
    raise ConfigError(
      f'config.model.positions={model.positions!r} are not known for a part of the tokens: a '
      "masked task needs 'learned' or 'sincos'"
    )
  if masked.decoder_width % masked.decoder_heads:
    raise ConfigError(
      f'config.masked.decoder_width={masked.decoder_width} is not divisible by '
      f'config.masked.decoder_heads={masked.decoder_heads}'
    )
  if masked.decoder_attention == 'factorised_dot_product' and masked.decoder_heads % 2:
    raise ConfigError(
      f'config.masked.decoder_heads={masked.decoder_heads} must be even for '
      "config.masked.decoder_attention='factorised_dot_product'"
    )
  _check_ratio(config)


def _check_ratio(config: Config) -> None:
  """Refuses a ratio that hides nothing or all, and places that devices cannot share."""
  model = config.model
  places = math.prod(places_of(model, config.clip))
  visible = visible_places(config.masked, places)
  if not 0 < visible < places:
    what = 'hides none' if visible else 'leaves none visible'
    raise ConfigError(
      f'config.masked.ratio={config.masked.ratio} {what} of the {places} places of the patch grid '
      f'in a frame: give a ratio from {1 / places:.3g} to below 1'
    )
  context = config.mesh.context
  if model.attention == 'factorised_encoder_by_patch' and context > 1 and visible % context:
    raise ConfigError(
      f'config.mesh.context={context} does not divide the {visible} visible places of '
      f'config.masked.ratio={config.masked.ratio}, which devices share along time: change one'
    )
