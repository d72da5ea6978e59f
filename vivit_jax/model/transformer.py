# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer blocks over a token grid, run as a loop or a scan on the same parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from vivit_jax.config.schema import Model
from vivit_jax.model.attention import SPACE, TIME, Attention
from vivit_jax.model.partitioning import compiled_for, constrain_batch, gather_params
from vivit_jax.model.positions import Rotation
from vivit_jax.model.product import dense_product

# Attentions in sequence; each entry has the axes along which its groups of heads attend.
Series = tuple[tuple[int, ...], ...]
AXIS_NAMES = {SPACE: 'space', TIME: 'time'}

# Activations that a block stores for the backward pass, in addition to its input; the rest is
# recomputed.
KEPT: dict[str, tuple[str, ...]] = {
  'dots': ('qkv', 'attention', 'hidden'),
  'attention': ('qkv', 'attention'),
  'block': (),
}


def remat(config: Model) -> str:
  """Returns the rematerialization setting, with `auto` resolved for the device.

  On NVIDIA GPUs, recomputing norms and GELU is faster than storing them. On TPUs, this would undo
  the fusion of GELU with its matrix product, and on CPUs, XLA merges the two computations again.
  """
  if config.remat != 'auto':
    return config.remat
  return 'elementwise' if compiled_for().startswith('NVIDIA') else 'none'


def drop_path_rates(config: Model, layers: int) -> list[float]:
  """Returns the stochastic depth rate of each layer, linear over depth (paper section 4.2).

  `from_zero` is l / (L - 1) * p for l = 0..L-1 (Scenic's code), `paper` l / L * p for l = 1..L.
  """
  if config.drop_path_schedule == 'paper':
    return [config.drop_path * layer / layers for layer in range(1, layers + 1)]
  return [config.drop_path * layer / max(layers - 1, 1) for layer in range(layers)]


def drop_path(
  update: Float[Array, 'b *n d'],
  rate: Float[Array, ''] | float,
  key: PRNGKeyArray,
  rescale: bool,
) -> Float[Array, 'b *n d']:
  """Returns the residual update with whole examples set to zero (arXiv 1603.09382).

  Args:
    update: the residual branch's output.
    rate: probability in [0, 1] that the branch is dropped for an example.
    rescale: whether to divide kept updates by 1 - rate, to preserve the expectation.
  """
  keep = jax.random.bernoulli(key, 1.0 - rate, (update.shape[0],) + (1,) * (update.ndim - 1))
  if rescale:
    update = (update / jnp.maximum(1.0 - rate, 1e-6)).astype(update.dtype)
  return jnp.where(keep, update, jnp.zeros_like(update))


class Mlp(nn.Module):
  """Two linear layers with GELU between (equation 3)."""

  config: Model

  @nn.compact
  def __call__(self, x: Float[Array, '*b d'], train: bool = False) -> Float[Array, '*b d']:
    config = self.config
    dense = functools.partial(
      nn.Dense,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
      dtype=jnp.dtype(config.dtype),
      dot_general=dense_product(config.gradient_dtype),
    )
    drop = nn.Dropout(config.dropout, deterministic=not train)
    x = checkpoint_name(dense(config.mlp_dim, name='hidden')(x), 'hidden')
    gelu: Callable[[jax.Array], jax.Array] = functools.partial(
      nn.gelu, approximate=config.gelu == 'tanh'
    )
    if remat(config) == 'elementwise':
      gelu = jax.checkpoint(gelu, prevent_cse=not config.scan)
    x = drop(gelu(x))
    return drop(dense(config.width, name='out')(x))


class Block(nn.Module):
  """Attentions in series, then the MLP, each pre-norm and residual (equations 2 and 3)."""

  config: Model
  series: Series
  tokens: int | None = None  # along SPACE, see Attention

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b *n d'],
    drop_path_rate: Float[Array, ''] | float = 0.0,
    train: bool = False,
    turn: Rotation | None = None,
  ) -> Float[Array, 'b *n d']:
    config = self.config
    kind: Any = nn.LayerNorm
    if remat(config) == 'elementwise':
      kind = nn.remat(kind, prevent_cse=not config.scan)
    norm = functools.partial(kind, epsilon=config.norm_epsilon, dtype=jnp.dtype(config.dtype))

    def add(x: jax.Array, update: jax.Array, axes: tuple[int, ...]) -> jax.Array:
      update = nn.Dropout(config.dropout, deterministic=not train)(update)
      return x + self._drop_path(self._shared(update, axes), drop_path_rate, train)

    for axes in self.series:
      suffix = '' if len(self.series) == 1 else '_' + AXIS_NAMES[axes[0]]
      # Model 3 starts as an image model: only the output projection of temporal attention is zero.
      # If all its kernels were zero, only its bias would get gradients.
      zero = len(self.series) > 1 and axes == (TIME,)
      init = nn.initializers.zeros if zero else nn.initializers.xavier_uniform()
      attention = Attention(config, axes, init, self.tokens, name=f'attention{suffix}')
      update = attention(norm(name=f'attention_norm{suffix}')(x), train, turn)
      if config.time_dense and axes == (TIME,):
        update = nn.Dense(config.width, dtype=jnp.dtype(config.dtype), name='time_dense')(update)
      x = add(x, update, axes)
    update = Mlp(config, name='mlp')(norm(name='mlp_norm')(x), train)
    return x + self._drop_path(self._shared(update, ()), drop_path_rate, train)

  def _shared(self, update: Float[Array, 'b *n d'], axes: tuple[int, ...]) -> jax.Array:
    """Returns the update with equal values for the cls tokens of all frames, if they are shared.

    A shared cls token is not updated by temporal attention, and by the mean over frames in spatial
    attention.
    """
    if self.config.pooling != 'shared_cls':
      return update
    cls = update[:, :, :1]
    if axes == (SPACE,):
      cls = jnp.broadcast_to(cls.mean(axis=1, keepdims=True), cls.shape)
    elif axes == (TIME,):
      cls = jnp.zeros_like(cls)
    else:  # updates of the MLP differ only by dropout
      cls = jnp.broadcast_to(cls[:, :1], cls.shape)
    return jnp.concatenate([cls, update[:, :, 1:]], axis=2)

  def _drop_path(self, update: jax.Array, rate: jax.Array | float, train: bool) -> jax.Array:
    if not train or self.config.drop_path == 0.0:
      return update
    return drop_path(update, rate, self.make_rng('dropout'), self.config.drop_path_rescale)


class Blocks(nn.Module):
  """A sequence of blocks; shares its parent's scope.

  Parameters are stored as `block_0`, `block_1`, ... for both loop and scan, with or without
  rematerialization: they are stacked inside apply, so checkpoints do not depend on these settings.
  """

  config: Model
  series: Series
  layers: int
  tokens: int | None = None  # along SPACE, see Attention

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b *n d'], train: bool = False, turn: Rotation | None = None
  ) -> Float[Array, 'b *n d']:
    config = self.config
    names = [f'block_{layer}' for layer in range(self.layers)]
    if self.is_initializing():
      for name in names:
        x = Block(config, self.series, name=name)(x)
      return x
    weights = [self.variables['params'][name] for name in names]
    rates = jnp.array(drop_path_rates(config, self.layers))
    random = train and max(config.dropout, config.attention_dropout, config.drop_path) > 0
    keys = jax.random.split(self.make_rng('dropout') if random else jax.random.key(0), self.layers)
    run = self._runner(train, turn)
    if config.scan:
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
      return jax.lax.scan(lambda x, layer: (run(x, *layer), None), x, (stacked, rates, keys))[0]
    for layer in range(self.layers):
      x = run(x, weights[layer], rates[layer], keys[layer])
    return x

  def _runner(self, train: bool, turn: Rotation | None) -> Callable[..., jax.Array]:
    block = Block(self.config, self.series, self.tokens, parent=None)

    def run(x, weights, rate, key):
      x = constrain_batch(x)
      # Inside the block, so that remat repeats the gather instead of storing full parameters.
      weights = gather_params(weights, self.config.dtype)
      return block.apply({'params': weights}, x, rate, train, turn, rngs={'dropout': key})

    if remat(self.config) in KEPT:
      kept = jax.checkpoint_policies.save_only_these_names(*KEPT[remat(self.config)])

      def policy(primitive: Any, *args: Any, **params: Any) -> Any:
        # cuDNN's residuals have no name.
        cudnn = primitive.name.startswith('dot_product_attention_fwd')
        return (cudnn and remat(self.config) != 'block') or kept(primitive, *args, **params)

      # Inside a scan, XLA cannot eliminate the recomputation, so no barrier is needed.
      return jax.checkpoint(run, prevent_cse=not self.config.scan, policy=policy)
    return run
