# SPDX-License-Identifier: Apache-2.0
"""The four ViViT models and related ones as chains of stages: arrange tokens, transform, pool."""

import dataclasses
from collections.abc import Callable

import einops
import jax
from jaxtyping import Array, Float

from vivit_jax.config.model import Model, Pooling
from vivit_jax.model.attention import SPACE, TIME
from vivit_jax.model.partitioning import gather_context, shard_context
from vivit_jax.model.transformer import Series


@dataclasses.dataclass(frozen=True)
class Stage:
  """One transformer of a model.

  Attributes:
    name: name of its subtree in the parameters.
    pattern: einops pattern that arranges the token grid for it.
    series: its attentions (see transformer.Series).
    pooling: `cls`, `mean` or `shared_cls` as in config.Model; `none` returns all tokens.
    sharding: shards its tokens over devices that share a clip.
  """

  name: str
  pattern: str
  series: Series
  pooling: Pooling
  sharding: Callable[[jax.Array], jax.Array] = shard_context

  @property
  def token_axes(self) -> tuple[int, ...]:
    """Axes covered by positions and removed by pooling; includes time if attention uses it."""
    along_time = any(TIME in axes for axes in self.series)
    return (TIME, SPACE) if along_time else (SPACE,)

  @property
  def cls(self) -> bool:
    """Whether a cls token comes before the other tokens (in each frame, if there are frames)."""
    return self.pooling in ('cls', 'shared_cls')


def stages(config: Model) -> tuple[Stage, ...]:
  """Returns the stages of a model: paper section 3.3, models 1 to 4, and VideoPrism's."""
  space, time = (SPACE,), (TIME,)
  kept: Pooling = 'none' if config.pooling.startswith('attention') else config.pooling
  match config.attention:
    case 'spatio_temporal':
      return (Stage('spacetime', 'b t s d -> b (t s) d', (space,), kept),)
    case 'factorised_encoder':
      spatial = Stage('spatial', 'b t s d -> b t s d', (space,), kept)
      temporal = Stage('temporal', 'b t d -> b t d', (space,), kept, gather_context)
      return (spatial, temporal) if config.temporal_layers else (spatial,)
    case 'factorised_self_attention':
      series = (space, time) if config.order == 'space_time' else (time, space)
      return (Stage('spacetime', 'b t s d -> b t s d', series, kept),)
    case 'factorised_dot_product':
      return (Stage('spacetime', 'b t s d -> b t s d', (time + space,), kept),)
    case 'factorised_encoder_by_patch':
      spatial = Stage('spatial', 'b t s d -> b t s d', (space,), 'none')
      # Devices that share a clip have some of its patches here, at all times.
      return (spatial, Stage('temporal', 'b t s d -> b s t d', (space,), 'none'))
  raise ValueError(f'attention {config.attention!r} is unknown')


def frame_by_frame(stage: Stage, x: Float[Array, 'b *n d']) -> Float[Array, 'b *m d']:
  """Returns the tokens of a stage without pooling as one sequence [B, T * S, D]."""
  if x.ndim < 4:
    return x
  return einops.rearrange(x, f'{stage.pattern.split("->")[1]} -> b (t s) d')
