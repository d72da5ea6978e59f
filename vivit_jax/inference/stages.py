# SPDX-License-Identifier: Apache-2.0
"""Runs the parts of a model separately, on one device: tokenizer, each stage, and head."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vivit_jax.config.schema import Model
from vivit_jax.errors import InputError
from vivit_jax.model.encoder import Encoder
from vivit_jax.model.pooling import Head
from vivit_jax.model.stages import Stage, stages
from vivit_jax.model.tokenizer import Tokenizer
from vivit_jax.model.transformer import Blocks
from vivit_jax.model.vivit import ViViT, all_tokens, apply, token_grid

Level = Literal['clip', 'frames', 'tokens']


def plainly(model: ViViT, **changes: Any) -> ViViT:
  """Returns the same model without scan and remat, which would hide intermediate values."""
  return model.clone(config=dataclasses.replace(model.config, scan=False, remat='none', **changes))


# The only values of these settings that are supported by code that runs stages separately.
_PLAIN = {
  'attention': (
    'spatio_temporal',
    'factorised_encoder',
    'factorised_self_attention',
    'factorised_dot_product',
  ),
  'pooling': ('cls', 'mean'),
  'final_norm': ('before_pooling',),
  'positions': ('learned',),
  'key_bias': (True,),
  'logit_cap': (None,),
  'time_dense': (False,),
}


def unusual(config: Model) -> str | None:
  """Returns the first setting that differs from the paper's four models, or None."""
  for name, known in _PLAIN.items():
    if (held := getattr(config, name)) not in known:
      return f'config.model.{name}={held!r}'
  return None


def check_plain(config: Model, what: str) -> None:
  """Rejects models for which a feature is not supported.

  Args:
    config: model settings.
    what: name of the feature, e.g. 'attention maps'.

  Raises:
    InputError: names the setting.
  """
  if setting := unusual(config):
    raise InputError(f'{what} are only for the four models of the ViViT paper, not with {setting}')


def embed(model: ViViT, params: Any, video: Float[Array, 'b f h w c']) -> Float[Array, 'b t s d']:
  """Returns the token grid of normalized clips, before positions are added."""
  module = Tokenizer(model.config)
  return cast(jax.Array, module.apply({'params': params['tokenizer']}, video))


def encode(
  model: ViViT, params: Any, stage: Stage, x: Float[Array, 'b *n d']
) -> Float[Array, 'b *pooled d']:
  """Returns the pooled output of one stage."""
  return cast(jax.Array, _encoder(model, stage).apply({'params': params[stage.name]}, x))


def encode_tokens(
  model: ViViT, params: Any, stage: Stage, x: Float[Array, 'b *n d']
) -> tuple[Float[Array, 'b *tokens d'], Float[Array, 'b *pooled d']]:
  """Returns the tokens of one stage after its final norm, without cls, and the pooled output."""
  seen: list[jax.Array] = []

  def note(call: Callable, arguments: Any, keywords: Any, context: nn.module.InterceptorContext):
    result = call(*arguments, **keywords)
    if isinstance(context.module, Blocks) and context.method_name == '__call__':
      seen.append(result)
    return result

  with nn.intercept_methods(note):
    pooled = encode(model, params, stage, x)
  (tokens,) = seen
  # The order is cls token, tokens, padding.
  first = int(model.config.pooling == 'cls')
  count = einops.rearrange(x, stage.pattern).shape[-2]
  norm = nn.LayerNorm(epsilon=model.config.norm_epsilon, dtype=jnp.dtype(model.config.dtype))
  own = {'params': params[stage.name]['norm']}
  return cast(jax.Array, norm.apply(own, tokens[..., first : first + count, :])), pooled


def _encoder(model: ViViT, stage: Stage) -> Encoder:
  config = model.config
  return Encoder(config, stage, config.temporal_layers if is_temporal(stage) else config.layers)


def is_temporal(stage: Stage) -> bool:
  """Returns whether a stage is the second one of a factorised encoder."""
  return stage.name == 'temporal'


def pool(x: Float[Array, 'b *t d']) -> Float[Array, 'b d']:
  """Returns the head's input from the last stage's output, averaged over frames if necessary."""
  return x.mean(axis=1) if x.ndim == 3 else x


def classify(model: ViViT, params: Any, x: Float[Array, 'b d']) -> Float[Array, 'b classes']:
  """Returns float32 logits of pooled representations."""
  head = Head(model.config, model.classes)
  return cast(jax.Array, head.apply({'params': {'head': params['head']}}, x))


def represent(
  model: ViViT, params: Any, video: Float[Array, 'b f h w c'], level: Level
) -> Float[Array, 'b *rows d']:
  """Returns float32 features of clips.

  `clip` [B, D] is the input of the head. `tokens` [B, T, S, D] are the tokens after the final norm;
  for a factorised encoder, those of the spatial stage, which do not depend on other frames.
  `frames` [B, T, D] are, for a factorised encoder, the tokens of the temporal stage, one per
  tubelet; otherwise the cls tokens if each frame has one, or else the mean over each frame's
  tokens.

  Args:
    video: normalized pixel values as expected by the weights.
  """
  if unusual(model.config):
    return _represent_whole(model, params, video, level)
  grid = embed(model, params, video)
  b, t, s, d = grid.shape
  chain = stages(model.config)
  first, pooled = encode_tokens(model, params, chain[0], grid)
  frames = pooled if pooled.ndim == 3 else first.reshape(b, t, s, d).mean(axis=2)
  for stage in chain[1:]:
    frames, pooled = encode_tokens(model, params, stage, pooled)
  result = {'clip': pool(pooled), 'frames': frames, 'tokens': first.reshape(b, t, s, d)}[level]
  return result.astype(jnp.float32)


def _represent_whole(
  model: ViViT, params: Any, video: Float[Array, 'b f h w c'], level: Level
) -> Float[Array, 'b *rows d']:
  """Returns the features of other models, from the tokens after the last stage and its norm.

  `frames` are means over each frame's tokens; without pooling, `clip` is the mean over all tokens.
  """
  config = model.config
  if level == 'clip' and config.pooling != 'none':
    return apply(model.clone(classes=0), params, video)
  if config.pooling == 'shared_cls':
    raise InputError(
      f"features of level {level!r} are not supported for config.model.pooling='shared_cls', only "
      "'clip'"
    )
  norm = 'none' if config.final_norm == 'after_pooling' else config.final_norm
  time, rows, columns = token_grid(config, video.shape)
  tokens = apply(all_tokens(model, final_norm=norm), params, video)
  grid = tokens.reshape(len(tokens), time, rows * columns, -1)
  if level == 'tokens':
    return grid
  return grid.mean(axis=2) if level == 'frames' else grid.mean(axis=(1, 2))
