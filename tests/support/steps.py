# SPDX-License-Identifier: Apache-2.0
"""Small training steps: configurations, batches, and states compared."""

import dataclasses
import functools

import jax
import numpy as np

from support.encoders import FAMILIES
from vivit_jax.config.parse import check
from vivit_jax.config.schema import (
  Clip,
  Config,
  Data,
  Evaluate,
  Mesh,
  Model,
  Task,
  Train,
)
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import (
  shard_batch,
  shard_state,
)
from vivit_jax.model.vivit import build
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state
from vivit_jax.train.step import compile_step

CONFIG = Config(
  task=Task(classes=(4,)),
  model=Model(
    layers=1, width=16, mlp_dim=32, heads=2, patch=(2, 8, 8), dropout=0.1, drop_path=0.1,
    drop_path_schedule='paper',
  ),
  clip=Clip(frames=4, height=16, width=24),
  data=Data(),
  train=Train(batch_size=8, steps=20, warmup_epochs=0.0, learning_rate=0.2),
  evaluate=Evaluate(batch_size=8),
)  # fmt: skip
TWO_HEADS = Task(heads=('verb', 'noun'), classes=(4, 3), joint='action')
MULTI = Task(kind='multi_label', heads=('tag',), classes=(5,))


def changed(**sections):
  """Returns CONFIG with some settings of some sections changed."""
  parts = {
    name: dataclasses.replace(getattr(CONFIG, name), **changes)
    if isinstance(changes, dict)
    else changes
    for name, changes in sections.items()
  }
  config = dataclasses.replace(CONFIG, **parts)
  check(config)
  return config


def make_batch(config, rng):
  clip, size = config.clip, config.train.batch_size
  task = config.task
  video = rng.integers(256, size=(size, clip.frames, clip.height, clip.width, 3), dtype=np.uint8)
  if task.kind == 'multi_label':
    return {'video': video, 'label': rng.integers(2, size=(size, *task.classes)).astype(np.float32)}
  columns = [rng.integers(count, size=size) for count in task.classes]
  return {'video': video, 'label': np.stack(columns, axis=1).astype(np.int32)}


def train(config, batches, devices=1, start=None):
  """Returns the state and the metrics of every step, from scratch or from a state."""
  model, optimizer = build(config), make_optimizer(config.train, 20)
  mesh = make_mesh(config, jax.devices()[:devices])
  state = shard_state(mesh, start or init_state(config, model, optimizer))
  step = compiled(config, devices)
  history = []
  for batch in batches:
    state, metrics = step(state, shard_batch(mesh, batch))
    history.append({name: float(value) for name, value in metrics.items()})
  return state, history


@functools.cache
def compiled(config, devices):
  mesh = make_mesh(config, jax.devices()[:devices])
  return compile_step(config, build(config), make_optimizer(config.train, 20), mesh)


def leaves(tree):
  return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(tree)}


def assert_bitwise_equal(found, expected):
  found, expected = leaves(found), leaves(expected)
  assert found.keys() == expected.keys()
  for name in found:
    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# 4 x 2 x 3 tokens, and one more for cls: a number that no mesh divides.
CLIP = {'frames': 8, 'height': 16, 'width': 24}
MESHES = {
  'data': Mesh(data=8),
  'fsdp': Mesh(data=1, fsdp=8),
  'both': Mesh(data=2, fsdp=4),
  'context': Mesh(data=2, context=4),
  'all': Mesh(data=2, fsdp=2, context=2),
  'pairs': Mesh(data=4, context=2),
}


# XLA is most tempted to move activations instead of parameters where layers are a scan.
SCAN = {'scan': True, 'remat': 'block'}


def config_of(attention, mesh, train=None, **model):
  """Returns a tiny experiment with every regulariser of the model."""
  layers = 2 if attention == 'factorised_dot_product' else 1
  model = {'layers': layers, **(SCAN if mesh == MESHES['both'] else {}), **model}
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  family = FAMILIES.get(attention, {'attention': attention, 'pooling': pooling})
  model = {'temporal_layers': 1, **family, **model}
  return changed(model=model, clip=CLIP, mesh=mesh, train=train or {})


@functools.cache
def five_steps(config, devices):
  rng = np.random.default_rng(0)
  return train(config, [make_batch(config, rng) for _ in range(5)], devices)
