# SPDX-License-Identifier: Apache-2.0
"""The objective of masked pretraining: the pixels of hidden patches, as in VideoMAE and MAE."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from vivit_jax.config.pretraining import places_of
from vivit_jax.config.schema import Config, Masked
from vivit_jax.model.masking import Places, draw_places, select, split_places
from vivit_jax.model.tokenizer import patches_of
from vivit_jax.model.values import values_of
from vivit_jax.model.vivit import ViViT, apply

EPSILON = 1e-6  # VideoMAE adds it to the deviation, MAE to the variance


def places_of_step(config: Config, key: PRNGKeyArray, batch: int) -> Places:
  """Returns which places each clip of a step's batch shows: a function of seed and step alone."""
  return draw_places(jax.random.split(key, batch), places_in_space(config))


def places_of_videos(config: Config, videos: Shaped[Array, ' b']) -> Places:
  """Returns the same for validation, where each video has one mask for the whole run."""
  key = jax.random.fold_in(jax.random.key(config.seed), 0xE7A1)  # another stream than the steps'
  keys = jax.vmap(lambda video: jax.random.fold_in(key, video))(videos.astype(jnp.uint32))
  return draw_places(keys, places_in_space(config))


def places_in_space(config: Config) -> int:
  """Returns the number of places of the patch grid in one frame."""
  return math.prod(places_of(config.model, config.clip))


def pixel_statistics(
  masked: Masked, pixels: Float[Array, '*b p'], ddof: int = 1
) -> tuple[Float[Array, '*b #n #c'], Float[Array, '*b #n #c']]:
  """Returns what is subtracted from the pixels of each patch [..., N, 3], and what divides them.

  VideoMAE (run_videomae_pretraining.py) takes each channel of a tubelet alone, MAE
  (models_mae.py, arXiv 2111.06377) all channels together; both the unbiased variance.
  """
  by_channel = pixels.reshape(*pixels.shape[:-1], -1, 3)
  axes = (-2,) if masked.target == 'tubelet' else (-2, -1)
  mean = by_channel.mean(axes, keepdims=True)
  variance = by_channel.var(axes, keepdims=True, ddof=ddof)
  if masked.target == 'tubelet':
    return mean, jnp.sqrt(variance) + EPSILON
  if masked.target == 'patch':
    return mean, jnp.sqrt(variance + EPSILON)
  return jnp.zeros_like(mean), jnp.ones_like(mean)


def reconstruction_targets(
  masked: Masked, patches: UInt8[Array, '*b p'] | Float[Array, '*b p']
) -> Float[Array, '*b p']:
  """Returns what the decoder should predict.

  Args:
    masked: its target.
    patches: pixels from 0 to 255, (t, row, column, channel) flattened.
  """
  pixels = patches.astype(jnp.float32) / 255
  mean, deviation = pixel_statistics(masked, pixels)
  by_channel = pixels.reshape(*pixels.shape[:-1], -1, 3)
  return ((by_channel - mean) / deviation).reshape(pixels.shape)


def reconstruction_loss(
  config: Config,
  model: ViViT,
  params: Any,
  video: Shaped[Array, 'b *rest'],
  places: Places,
  dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, ' b']:
  """Returns the mean squared error over the hidden patches of each clip.

  Args:
    config: of the experiment.
    model: with a decoder.
    params: of the model.
    video: pixels, uint8 [B, F, H, W, 3], or cut (see `step.host_cut`).
    places: of each clip, see `masking.Places`.
    dropout_key: the regularizers act if one is given.
  """
  patches = patches_of(config.model, video)
  predicted = apply(model, params, values_of(patches, config.clip), dropout_key, places)
  hidden = select(patches, split_places(config.masked, places)[1])
  return jnp.square(predicted - reconstruction_targets(config.masked, hidden)).mean((1, 2, 3))
