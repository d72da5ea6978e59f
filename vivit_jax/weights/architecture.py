# SPDX-License-Identifier: Apache-2.0
"""The model and the clip of an experiment taken over from the checkpoint that it starts from."""

import dataclasses
from typing import Any

from vivit_jax.config.clip import Clip
from vivit_jax.config.parse import check
from vivit_jax.config.schema import Config, Model
from vivit_jax.data.splits import with_classes
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.weights.pretrained import read_source
from vivit_jax.weights.source import Source

# Settings of a model that are the experiment's own, whatever it starts from.
OWN = (
  'tubelet_init', 'dropout', 'attention_dropout', 'head_dropout', 'drop_path',
  'drop_path_schedule', 'drop_path_rescale', 'dtype', 'gradient_dtype', 'attention_kernel', 'scan',
  'remat',
)  # fmt: skip


def resolved(config: Config) -> Config:
  """Returns the configuration with all that its checkpoint and its data tell.

  Raises:
    ConfigError, DataError, CheckpointError: of `with_architecture` and `splits.with_classes`.
  """
  return with_classes(with_architecture(config))


def with_architecture(config: Config) -> Config:
  """Returns the configuration with the model and the clip of `init.checkpoint`, if it says so.

  Only settings at their defaults change. Weights without a head get a pooling that their family
  uses: the mean of tokens after masked pretraining, else attention.

  Raises:
    ConfigError: no checkpoint, one of images, or one that cannot be read.
  """
  init = config.init
  if init.architecture == 'config':
    return config
  if init.checkpoint is None:
    raise ConfigError(
      "config.init.architecture='checkpoint' needs weights: give --config.init.checkpoint=WEIGHTS, "
      'or a model as the variant of the recipe, e.g. finetune:B/16x2'
    )
  try:
    source = read_source(init.checkpoint, init.facts)
  except CheckpointError as error:
    raise ConfigError(f'config.init.checkpoint={init.checkpoint}: {error}') from None
  if source.kind == 'image':
    raise ConfigError(
      f'config.init.checkpoint={init.checkpoint} is an image model, which starts any of the video '
      'models: name one as the variant of the recipe, e.g. finetune:B/16x2'
    )
  wants = source.preprocessing.clip(source.frames, source.height, source.width)
  found = dataclasses.replace(
    config,
    model=_filled(config.model, Model(), _classifier(source), OWN),
    clip=_filled(config.clip, Clip(), wants, ()),
  )
  check(found)
  return found


def _filled(given: Any, default: Any, held: Any, own: tuple[str, ...]) -> Any:
  """Returns a section whose settings at their defaults are those of the checkpoint."""
  names = [field.name for field in dataclasses.fields(given) if field.name not in own]
  taken = {n: getattr(held, n) for n in names if getattr(given, n) == getattr(default, n)}
  return dataclasses.replace(given, **taken)


def _classifier(source: Source) -> Model:
  """Returns the model of the weights, as a classifier can have it."""
  model = source.model
  if model.pooling != 'none':
    return model
  if not source.decoder and model.positions != 'sincos':
    return dataclasses.replace(model, pooling='attention')
  by_patch = model.attention == 'factorised_encoder_by_patch'
  return dataclasses.replace(
    model,
    attention='factorised_encoder' if by_patch else model.attention,
    pooling='mean',
    final_norm='after_pooling' if model.final_norm == 'none' else model.final_norm,
  )
