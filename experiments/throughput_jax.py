# SPDX-License-Identifier: Apache-2.0
"""The training step of this package or of a plain port, as a program for throughput.py."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from contestant import Contest, arguments, serve
from plain_port import PlainViViT
from plain_port import train_step as plain_step
from vivit_jax.config.schema import SIZES, Clip, Config, Model, Task, Train
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch, shard_state
from vivit_jax.model.vivit import build, video_shape
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state
from vivit_jax.train.step import compile_step


def experiment(contest: Contest) -> Config:
  """Returns what is trained."""
  size = SIZES[contest.size]
  kinds = {'scan': True, 'remat': 'block'} if contest.program == 'ours_scan_remat' else {}
  model = Model(
    attention=contest.attention,  # type: ignore[arg-type]
    layers=size.layers,
    width=size.width,
    mlp_dim=size.mlp_dim,
    heads=size.heads,
    pooling='mean' if contest.attention == 'factorised_self_attention' else 'cls',
    dtype=contest.dtype,  # type: ignore[arg-type]
    **kinds,  # type: ignore[arg-type]
  )
  return Config(
    task=Task(classes=(contest.classes,)),
    model=model,
    clip=Clip(contest.frames, height=contest.pixels, width=contest.pixels),
    train=Train(batch_size=contest.batch, learning_rate=0.01),
  )


def main() -> None:
  """Serves one program."""
  contest = arguments()
  config = experiment(contest)
  mesh = make_mesh(None, jax.devices()[:1])
  rng = np.random.default_rng(0)
  shape = (contest.batch, contest.frames, contest.pixels, contest.pixels, 3)
  batch = shard_batch(
    mesh,
    {
      'video': rng.integers(0, 256, shape, np.uint8),
      'label': rng.integers(0, contest.classes, (contest.batch, 1), np.int32),
    },
  )
  notes: list[str] = []
  if contest.program == 'port':
    notes.append('flash attention skipped: the port has the plain product of flax alone')
    step = _plain(contest, config, batch)
  else:
    step = _ours(config, mesh, batch, notes.append)
  serve(step, _peak_bytes, _matrix_peak(contest.dtype), lambda: notes)


def _ours(
  config: Config, mesh: jax.sharding.Mesh, batch: dict, note: Callable[[str], None]
) -> Callable[[], None]:
  model, optimizer = build(config), make_optimizer(config.train, 1_000_000)
  state = shard_state(mesh, init_state(config, model, optimizer))
  update = compile_step(config, model, optimizer, mesh, say=note)

  def step() -> None:
    nonlocal state
    state, metrics = update(state, batch)
    jax.block_until_ready(metrics)

  return step


def _plain(contest: Contest, config: Config, batch: dict) -> Callable[[], None]:
  model = PlainViViT(config.model, contest.classes)
  optimizer = make_optimizer(config.train, 1_000_000)
  params = model.lazy_init(jax.random.key(0), video_shape(config.clip))['params']
  state = (params, optimizer.init(params))
  update = jax.jit(functools.partial(plain_step, model, optimizer), donate_argnums=0)

  def step() -> None:
    nonlocal state
    state, loss = update(state, batch)
    jax.block_until_ready(loss)

  return step


def _peak_bytes() -> int | None:
  """Returns the most that the device's allocator held; CPUs have none of their own."""
  found = jax.devices()[0].memory_stats() or {}
  return found.get('peak_bytes_in_use')


def _matrix_peak(dtype: str) -> tuple[Callable[[], object], float]:
  """Returns a large square matrix product, and its FLOPs."""
  side = 2048 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((side, side), dtype)
  product = jax.jit(lambda x: x @ x)
  return lambda: product(x).block_until_ready(), 2.0 * side**3


if __name__ == '__main__':
  main()
