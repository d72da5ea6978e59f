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

from vivit_jax.config.schema import Clip, Config, Masked, Model
from vivit_jax.errors import InputError
from vivit_jax.model.decoder import Decoder
from vivit_jax.model.encoder import Encoder
from vivit_jax.model.masking import Places, split_places
from vivit_jax.model.partitioning import gather_leaf
from vivit_jax.model.pooling import Head
from vivit_jax.model.stages import frame_by_frame, stages
from vivit_jax.model.tokenizer import Tokenizer


class ViViT(nn.Module):
  """Video Vision Transformer: tokenizer, stages, linear head.

  Attributes:
    config: the architecture.
    classes: size of the logits' last axis, over all heads of the task; 0 = no head.
    masked: of masked pretraining, which gives the model a decoder; None without one.
  """

  config: Model
  classes: int
  masked: Masked | None = None

  @nn.compact
  def __call__(
    self, video: Shaped[Array, '...'], train: bool = False, places: Places | None = None
  ) -> Float[Array, 'b *out']:
    """Returns float32 logits [B, classes].

    Without a head it returns what that would see: [B, D], or all tokens [B, T * S, D], frame by
    frame, where config.pooling is `none`. With `places` it returns the predicted pixels of the
    hidden patches, [B, T, M, P] (see `Decoder`), as `losses.reconstruction_targets` has them.

    Args:
      video: pixel values in [-1, 1], floats [B, F, H, W, 3]; any F, H, W that config.patch divides.
        Or what `tokenizer.cut` makes of it.
      train: dropout and stochastic depth act, drawing from the `dropout` generator.
      places: of the patch grid in space, of which the encoder sees the first; see `masking`.

    Raises:
      InputError: the type or shape is wrong; raised when the program is traced.
    """
    config, masked = self.config, self.masked
    is_cut = video.ndim == 4 and video.shape[-1] == 3 * math.prod(config.patch)
    if not is_cut:
      check_video(config, video)
    grid = token_grid(config, video.shape)
    if masked is not None and places is None and self.is_initializing():
      places = jnp.broadcast_to(jnp.arange(grid[1] * grid[2]), (len(video), grid[1] * grid[2]))
    visible = None
    if places is not None:
      assert masked is not None, 'only a model with a decoder sees a part of a clip'
      visible = split_places(masked, places)[0]
    x = Tokenizer(config, name='tokenizer')(video, visible)
    for stage in stages(config):
      layers = config.temporal_layers if stage.name == 'temporal' else config.layers
      x = Encoder(config, stage, layers, name=stage.name)(x, train, grid, visible)
    x = frame_by_frame(stage, x)
    if masked is not None and places is not None:
      x = einops.rearrange(x, 'b (t k) d -> b t k d', t=grid[0])
      return Decoder(config, masked, name='decoder')(x, places, grid)
    head = Head(config, self.classes)
    nn.share_scope(self, head)
    return head(x, train)


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

  B need not be a number: exports leave it open. Cut videos [B, T, S, P] have one row of S places.
  """
  if len(video) == 4:
    return video[1], 1, video[2]
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
  """Returns the model of an experiment whose number of classes is known; with its decoder if the
  task is masked pretraining."""
  if config.task.kind == 'masked':
    return ViViT(config.model, 0, config.masked)
  assert config.task.classes, 'data.splits.with_classes() finds them out'
  return ViViT(config.model, sum(config.task.classes))


def apply(
  model: ViViT,
  params: Any,
  video: Shaped[Array, '...'],
  dropout_key: PRNGKeyArray | None = None,
  places: Places | None = None,
) -> Float[Array, 'b *out']:
  """Applies the model; dropout and stochastic depth are active if a key is given."""
  gather = functools.partial(_gathered_here, dtype=model.config.dtype)
  params = jax.tree_util.tree_map_with_path(gather, params)
  if dropout_key is None:
    return cast(jax.Array, model.apply({'params': params}, video, places=places))
  rngs = {'dropout': dropout_key}
  return cast(
    jax.Array, model.apply({'params': params}, video, train=True, places=places, rngs=rngs)
  )


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
