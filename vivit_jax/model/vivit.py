# SPDX-License-Identifier: Apache-2.0
"""The models as Flax modules: tokenizer, a chain of stages, pooling, head."""

import dataclasses
import functools
import math
from typing import Any, cast

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from vivit_jax.config.schema import Clip, Config, Model
from vivit_jax.errors import InputError
from vivit_jax.model.kernels import filled
from vivit_jax.model.partitioning import context_size, gather_leaf
from vivit_jax.model.pooling import Head
from vivit_jax.model.positions import rotation, sincos
from vivit_jax.model.stages import Stage, frame_by_frame, stages
from vivit_jax.model.tokenizer import Tokenizer
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
  ) -> Float[Array, 'b *pooled d']:
    """Returns one vector per example, or per frame if time is not a token axis.

    Without pooling it returns the tokens in the stage's arrangement.

    Args:
      x: tokens in the input arrangement of the stage's pattern.
      train: whether to apply dropout and stochastic depth.
      grid: tokens along time, height and width, for rotary positions.
    """
    config, axes = self.config, self.stage.token_axes
    dtype = jnp.dtype(config.dtype)
    x = self.stage.sharding(einops.rearrange(x, self.stage.pattern))
    if self.stage.cls:
      cls = self.param('cls', nn.initializers.zeros, (1, 1, config.width)).astype(dtype)
      x = jnp.concatenate([jnp.broadcast_to(cls, (*x.shape[:-2], 1, config.width)), x], axis=-2)
    tokens = tuple(x.shape[axis] for axis in axes)
    x = self._positioned(x, tokens)
    x = self.stage.sharding(nn.Dropout(config.dropout, deterministic=not train)(x))
    x = self._filled(x, train)
    turn = None
    if config.positions.startswith('rotary'):
      if grid is None:
        raise ValueError('rotary positions need the grid of the tokens')
      turn = rotation(config, grid, x.shape[-2])
    blocks = Blocks(config, self.stage.series, self.layers, tokens[-1])
    nn.share_scope(self, blocks)
    x = blocks(x, train, turn)
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
      return x + jnp.asarray(sincos(tokens[-1], config.width), x.dtype)
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


class ViViT(nn.Module):
  """Video Vision Transformer: tokenizer, stages, linear head.

  Attributes:
    config: the architecture.
    classes: size of the logits' last axis, over all heads of the task; 0 = no head.
  """

  config: Model
  classes: int

  @nn.compact
  def __call__(self, video: Shaped[Array, '...'], train: bool = False) -> Float[Array, 'b *out']:
    """Returns float32 logits [B, classes].

    Without a head it returns the head's input: [B, D], or all tokens [B, T * S, D], frame by frame,
    if config.pooling is `none`.

    Args:
      video: pixel values in [-1, 1], floats [B, F, H, W, 3], with F, H, W divisible by
        config.patch; or the result of `tokenizer.cut`.
      train: whether to apply dropout and stochastic depth, with the RNG `dropout`.

    Raises:
      InputError: the type or shape is wrong; raised when the program is traced.
    """
    config = self.config
    if video.ndim != 4 or video.shape[-1] != 3 * math.prod(config.patch):
      check_video(config, video)
    x = Tokenizer(config, name='tokenizer')(video)
    for stage in stages(config):
      layers = config.temporal_layers if stage.name == 'temporal' else config.layers
      x = Encoder(config, stage, layers, name=stage.name)(x, train, token_grid(config, video.shape))
    head = Head(config, self.classes)
    nn.share_scope(self, head)
    return head(frame_by_frame(stage, x), train)


def all_tokens(model: ViViT, **changes: Any) -> ViViT:
  """Returns the model without pooling, which returns all tokens; its parameters are a subset.

  Args:
    model: a model with pooling.
    changes: further changes of its settings.
  """
  config = dataclasses.replace(
    model.config, pooling='none', pooler_layers=0, pooler_width=None, **changes
  )
  return model.clone(config=config, classes=0)


def token_grid(config: Model, video: tuple[Any, ...]) -> tuple[int, int, int]:
  """Returns tokens along time, height and width for a video shape [B, F, H, W, 3].

  B may be symbolic, as in exports.
  """
  t, h, w = config.patch
  return config.sampled_frames or video[1] // t, video[2] // h, video[3] // w


def check_video(config: Model, video: Shaped[Array, '...']) -> None:
  """Checks that the input is a batch of float clips that can be divided into tubelets.

  Raises:
    InputError: names the type or shape, and the remedy.
  """
  held = f'the video is {video.dtype} {list(video.shape)}'
  if video.ndim != 5 or video.shape[-1] != 3:
    raise InputError(f'{held}: a model takes [B, F, H, W, 3], clips of RGB frames')
  if not jnp.issubdtype(video.dtype, jnp.floating):
    raise InputError(
      f'{held}: a model takes pixel values in [-1, 1]; give raw frames to the model that '
      'load_pretrained returns, or video / 127.5 - 1'
    )
  frames, height, width = video.shape[1:4]
  t, h, w = config.patch
  if (frames % t and config.sampled_frames is None) or height % h or width % w or not video.size:
    raise InputError(
      f'{held}: the model cuts [F, H, W] into tubelets of {[t, h, w]}, which must divide them; '
      'resize or crop the frames'
    )
  if frames < (config.sampled_frames or 0):
    raise InputError(f'{held}: the model samples {config.sampled_frames} frames of a clip')


def build(config: Config) -> ViViT:
  """Returns the model of a config with a known number of classes."""
  assert config.task.classes, 'data.dataset.with_classes() finds them out'
  return ViViT(config.model, sum(config.task.classes))


def apply(
  model: ViViT,
  params: Any,
  video: Shaped[Array, '...'],
  dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, 'b *out']:
  """Applies the model; dropout and stochastic depth are active if a key is given."""
  gather = functools.partial(_gathered_here, dtype=model.config.dtype)
  params = jax.tree_util.tree_map_with_path(gather, params)
  if dropout_key is None:
    return cast(jax.Array, model.apply({'params': params}, video))
  rngs = {'dropout': dropout_key}
  return cast(jax.Array, model.apply({'params': params}, video, train=True, rngs=rngs))


def _gathered_here(path: tuple[Any, ...], leaf: Any, dtype: str) -> Any:
  """Gathers a parameter, unless it belongs to a block, which gathers its own parameters."""
  names = [str(entry.key) for entry in path]
  if any(name.startswith('block_') for name in names):
    return leaf
  return gather_leaf(path, leaf, None if names[0] == 'head' else dtype)  # the head is float32


def video_shape(clip: Clip, batch: int = 1) -> jax.ShapeDtypeStruct:
  """Returns the abstract input of a model for clips of this size, float32 [B, F, H, W, 3]."""
  return jax.ShapeDtypeStruct((batch, clip.frames, clip.height, clip.width, 3), jnp.float32)


def init_params(model: ViViT, clip: Clip, key: PRNGKeyArray) -> dict[str, Any]:
  """Returns initial float32 parameters, without running the model.

  It does not use jit: compiling the initializers of many layers takes longer than running them.
  """
  return _plain(model).lazy_init(key, video_shape(clip))['params']


def abstract_params(model: ViViT, clip: Clip) -> dict[str, Any]:
  """Returns shapes and types of the parameters, without allocation or compilation."""
  return jax.eval_shape(_plain(model).init, jax.random.key(0), video_shape(clip))['params']


def _plain(model: ViViT) -> ViViT:
  """Returns a model with the same parameters and no device-dependent settings."""
  config = dataclasses.replace(model.config, attention_kernel='plain', remat='none')
  return model.clone(config=config)
