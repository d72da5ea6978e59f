# SPDX-License-Identifier: Apache-2.0
"""The decoder of masked pretraining: from visible tokens to the pixels of hidden patches."""

import dataclasses
import math

import einops
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Masked, Model
from vivit_jax.model.encoder import Encoder
from vivit_jax.model.masking import Places, select, split_places, spread
from vivit_jax.model.partitioning import shard_context
from vivit_jax.model.product import dense_product
from vivit_jax.model.stages import frame_by_frame, stages


def decoder_model(config: Model, masked: Masked) -> Model:
  """Returns the settings of the decoder's transformer; what it does not set is the encoder's."""
  return dataclasses.replace(
    config,
    attention=masked.decoder_attention,
    layers=masked.decoder_layers,
    width=masked.decoder_width,
    mlp_dim=masked.decoder_mlp_dim,
    heads=masked.decoder_heads,
    positions='sincos',
    pooling='none',
    final_norm='before_pooling',
    dropout=0.0,
    attention_dropout=0.0,
    drop_path=0.0,
    logit_cap=None,
    time_dense=False,
  )


class Decoder(nn.Module):
  """A small transformer over the whole grid, in which a learned token stands for hidden patches.

  As in VideoMAE (arXiv 2203.12602, section 3.2): a linear layer without bias, fixed sine-cosine
  positions, blocks, norm, and a linear layer to pixels.

  Attributes:
    config: of the encoder.
    masked: the decoder's own settings.
  """

  config: Model
  masked: Masked

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t k d'], places: Places, grid: tuple[int, int, int]
  ) -> Float[Array, 'b t m p']:
    """Returns what the hidden patches are predicted to be, in float32, by ascending place.

    Args:
      x: the encoder's tokens of the visible places, by ascending place.
      places: see `masking.Places`.
      grid: tokens of the whole clip along time, height and width.
    """
    config = decoder_model(self.config, self.masked)
    dtype, dot = jnp.dtype(config.dtype), dense_product(config.gradient_dtype)
    xavier = nn.initializers.xavier_uniform()
    embed = nn.Dense(
      config.width, use_bias=False, kernel_init=xavier, dtype=dtype, dot_general=dot, name='embed'
    )
    token = self.param('mask_token', nn.initializers.normal(0.02), (1, 1, config.width))
    x = spread(embed(shard_context(x)), places, jnp.asarray(token)[0, 0])
    (stage,) = stages(config)
    encoder = Encoder(config, stage, config.layers)
    nn.share_scope(self, encoder)
    x = frame_by_frame(stage, encoder(x))
    x = einops.rearrange(x, 'b (t s) d -> b t s d', t=grid[0])
    x = select(x, split_places(self.masked, places)[1])
    pixels = 3 * math.prod(config.patch)
    out = nn.Dense(pixels, kernel_init=xavier, dtype=dtype, dot_general=dot, name='out')
    return out(x).astype(jnp.float32)
