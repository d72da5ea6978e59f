# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix of clips and label probabilities, within small groups of the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray

from vivit_jax.config.schema import Mix


def mix(
  settings: Mix,
  key: PRNGKeyArray,
  video: Num[Array, 'b *pixels'],
  targets: Float[Array, 'b classes'],
) -> tuple[Num[Array, 'b *pixels'], Float[Array, 'b classes']]:
  """Returns clips and label probabilities, each blended with those of a partner clip.

  Clip i in a group of n clips has the partner n - 1 - i. Groups are consecutive clips of the batch,
  so no clip moves between devices and the pairs do not depend on the number of devices. All clips
  of a group share one draw. Mixup (arXiv 1710.09412) blends with a weight lambda ~ Beta(alpha,
  alpha). CutMix (arXiv 1905.04899) replaces a box with a fraction of about 1 - lambda of the frame,
  the same box in all frames, and weights the labels by the fraction that is actually replaced.

  Args:
    settings: mixup and CutMix settings; B must be a multiple of `settings.group_size`.
    key: random key of the step.
    video: any value range; blended as float32, or returned unchanged if both are off.
    targets: label probabilities.
  """
  if not (settings.mixup or settings.cutmix):
    return video, targets
  groups, (height, width) = video.shape[0] // settings.group_size, video.shape[2:4]
  keys = jax.random.split(key, 4)
  own = jnp.ones((groups, height, width))  # weight of each pixel of the clip itself
  if settings.mixup:
    own = own * jax.random.beta(keys[0], settings.mixup, settings.mixup, (groups, 1, 1))
  if settings.cutmix:
    kept = jax.random.beta(keys[1], settings.cutmix, settings.cutmix, (groups,))
    box = _boxes(keys[2], kept, height, width)
    share = settings.cutmix_fraction if settings.mixup else 1.0
    cut = jax.random.bernoulli(keys[3], share, (groups, 1, 1))
    own = jnp.where(cut, 1.0 - box, own)
  return (
    _blend(video.astype(jnp.float32), own[:, None, None, :, :, None]),
    _blend(targets, own.mean(axis=(1, 2))[:, None, None]),
  )


def _blend(x: Float[Array, 'b *rest'], own: Float[Array, 'g *ones']) -> Float[Array, 'b *rest']:
  grouped = x.reshape(own.shape[0], -1, *x.shape[1:])
  return (own * grouped + (1.0 - own) * grouped[:, ::-1]).reshape(x.shape)


def _boxes(
  key: PRNGKeyArray, kept: Float[Array, ' g'], height: int, width: int
) -> Float[Array, 'g {height} {width}']:
  """Returns masks that are 1 inside boxes with a fraction of 1 - kept, clipped at the edges."""
  centres = jax.random.uniform(key, (2, kept.shape[0]))
  side = jnp.sqrt(1.0 - kept)

  def inside(centre: Float[Array, ' g'], length: int) -> Float[Array, 'g {length}']:
    low = jnp.round((centre - side / 2) * length)[:, None]
    high = jnp.round((centre + side / 2) * length)[:, None]
    place = jnp.arange(length)
    return ((place >= low) & (place < high)).astype(jnp.float32)

  return inside(centres[0], height)[:, :, None] * inside(centres[1], width)[:, None, :]
