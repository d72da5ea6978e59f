# SPDX-License-Identifier: Apache-2.0
"""One transformer of a model: positions, blocks, final norm and pooling."""

import math

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from vivit_jax.config.schema import Model
from vivit_jax.errors import InputError
from vivit_jax.model.kernels import filled
from vivit_jax.model.masking import select
from vivit_jax.model.partitioning import context_size
from vivit_jax.model.positions import rotation, sincos
from vivit_jax.model.stages import Stage
from vivit_jax.model.transformer import Blocks


@jax.custom_vjp
def add_positions(x: Float[Array, '*b d'], position: Float[Array, '*n d']) -> Float[Array, '*b d']:
  """Adds positions, which are shared by all examples, to tokens."""
  return x + position.astype(x.dtype)


def _position_gradient(position: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of tokens and positions; the latter is summed in the positions' type.

  Without the barrier, XLA on GPUs would choose the layout of all activations of the stage for this
  sum, and every norm would need a transpose.
  """
  rows, lead = g, g.ndim - position.ndim
  if context_size() == 1:  # otherwise rows would span several devices
    rows, lead = g.reshape(-1, position.size), 1
  rows = jax.lax.optimization_barrier(rows)
  return g, rows.sum(tuple(range(lead)), dtype=position.dtype).reshape(position.shape)


add_positions.defvjp(lambda x, position: (add_positions(x, position), position), _position_gradient)


class Encoder(nn.Module):
  """Positions, blocks, final norm and pooling of one stage."""

  config: Model
  stage: Stage
  layers: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b *n d'],
    train: bool = False,
    grid: tuple[int, int, int] | None = None,
    places: Int[Array, 'b k'] | None = None,
  ) -> Float[Array, 'b *pooled d']:
    """Returns one representation per example, or per frame where time is not a token axis.

    Without pooling it returns the tokens, as the stage has laid them out.

    Args:
      x: tokens as the stage's pattern takes them.
      train: dropout and stochastic depth act.
      grid: tokens of the whole clip along time, height and width, which rotary positions go by.
      places: of each clip's tokens in space, if some are hidden; all by default.
    """
    config, axes = self.config, self.stage.token_axes
    dtype = jnp.dtype(config.dtype)
    x = self.stage.sharding(einops.rearrange(x, self.stage.pattern))
    if self.stage.cls:
      cls = self.param('cls', nn.initializers.zeros, (1, 1, config.width)).astype(dtype)
      x = jnp.concatenate([jnp.broadcast_to(cls, (*x.shape[:-2], 1, config.width)), x], axis=-2)
    tokens = tuple(x.shape[axis] for axis in axes)
    x = self._positioned(x, tokens) if places is None else self._placed(x, grid, places)
    x = self.stage.sharding(nn.Dropout(config.dropout, deterministic=not train)(x))
    x = self._filled(x, train)
    turn = None
    if config.positions.startswith('rotary'):
      if grid is None:
        raise ValueError('rotary positions need the grid of the tokens')
      turn = rotation(config, grid, x.shape[-2])
    blocks = Blocks(config, self.stage.series, self.layers, tokens[-1])
    nn.share_scope(self, blocks)
    # Gradients too arrive laid out as the tokens are: XLA sums those of matrices wrongly if they
    # come split along another axis, as from a next stage that splits patches instead of frames.
    x = self.stage.sharding(blocks(x, train, turn))
    if self.stage.pooling == 'shared_cls':
      x = x[:, 0]
    x = x[..., 0, :] if self.stage.cls else x[..., : tokens[-1], :]
    pools, own = self.stage.pooling == 'mean', config.final_norm_epsilon
    if pools and config.final_norm == 'after_pooling':
      x = x.mean(axis=axes)
    if config.final_norm != 'none':
      epsilon = config.norm_epsilon if own is None else own
      x = nn.LayerNorm(epsilon=epsilon, dtype=dtype, name='norm')(x)
    return x.mean(axis=axes) if pools and config.final_norm != 'after_pooling' else x

  def _positioned(self, x: Float[Array, 'b *n d'], tokens: tuple[int, ...]) -> jax.Array:
    """Adds learned or fixed positions to the tokens, if the model has them."""
    config = self.config
    if config.positions.startswith('rotary'):
      return x
    if config.positions == 'sincos':
      return x + self._sincos(tokens).astype(x.dtype)
    separable = config.positions == 'separable'
    shape = (1, tokens[-1] if separable else math.prod(tokens), config.width)
    self._check_positions('position', shape)
    position = jnp.asarray(self.param('position', nn.initializers.normal(0.02), shape))
    if separable:
      shape = (1, tokens[0], config.width)
      self._check_positions('time_position', shape)
      time = jnp.asarray(self.param('time_position', nn.initializers.zeros, shape))
      time = jnp.broadcast_to(time[0, :, None], (*tokens, config.width))
      if self.stage.cls:  # which has a spatial but no temporal position
        time = time.at[:, 0].set(0.0)
      position = position + time
    return add_positions(x, position.reshape(*tokens, config.width))

  def _sincos(self, tokens: tuple[int, ...]) -> Float[Array, '*n d']:
    width = self.config.width
    return jnp.asarray(sincos(math.prod(tokens), width)).reshape(*tokens, width)

  def _placed(
    self, x: Float[Array, 'b *n d'], grid: tuple[int, int, int] | None, places: Int[Array, 'b k']
  ) -> jax.Array:
    """Returns the tokens of visible places with the positions of those places."""
    assert grid is not None, 'positions of some places need the grid of all'
    config, t, s = self.config, grid[0], grid[1] * grid[2]
    if self.stage.name == 'temporal':  # its positions are of times, none of which is hidden
      return self._positioned(x, (t,))
    along_time = len(self.stage.token_axes) == 2 or self.stage.pattern.endswith('b (t s) d')
    tokens = (t, s) if along_time else (1, s)
    if config.positions == 'sincos':
      table = self._sincos(tokens)
    else:
      shape = (1, math.prod(tokens), config.width)
      self._check_positions('position', shape)
      table = jnp.asarray(self.param('position', nn.initializers.normal(0.02), shape))
    chosen = select(table.reshape(1, *tokens, config.width), places)
    if along_time:
      chosen = einops.rearrange(chosen, self.stage.pattern)
    return x + chosen.astype(x.dtype)

  def _filled(self, x: Float[Array, 'b *n d'], train: bool) -> Float[Array, 'b *m d']:
    """Returns the tokens padded to the length preferred by the attention kernel."""
    config = self.config
    query = jax.ShapeDtypeStruct(
      (*x.shape[:-1], config.heads, config.width // config.heads), jnp.dtype(config.dtype)
    )
    drops = train and config.attention_dropout > 0
    length = filled(config.attention_kernel, query, drops, config.logit_cap)
    if length == x.shape[-2]:
      return x
    # Not zeros, for which a norm with epsilon 0 would give NaN.
    filling = jnp.arange(config.width, dtype=x.dtype) % 2
    shape = (*x.shape[:-2], length - x.shape[-2], config.width)
    return jnp.concatenate([x, jnp.broadcast_to(filling, shape)], axis=-2)

  def _check_positions(self, name: str, shape: tuple[int, int, int]) -> None:
    """Rejects clips whose size does not match the positions, with a clearer error than Flax's."""
    if self.has_variable('params', name):
      held: tuple[int, ...] = self.get_variable('params', name).shape
      if held != shape:
        raise InputError(
          f'the video gives the {self.stage.name} transformer {shape[1]} tokens, but its positions '
          f'are for {held[1]}: give clips of the size of the weights, or raw frames to the model '
          'that load_pretrained returns'
        )
