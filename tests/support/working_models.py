# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, as loaded checkpoints, and files of them."""

from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from vivit_jax.config.schema import Clip, Model, Task
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights import export
from vivit_jax.weights.pretrained import Pretrained
from vivit_jax.weights.source import Preprocessing, Source

LABELS = ('jump', 'run', 'swim', 'read', 'sing', 'cook')
SMALL = {'layers': 2, 'width': 16, 'mlp_dim': 32, 'heads': 2, 'patch': (2, 16, 16)}
MODELS = (
  'spatio_temporal',
  'factorised_encoder',
  'factorised_self_attention',
  'factorised_dot_product',
)
VARIANTS = [(attention, pooling) for attention in MODELS for pooling in ('cls', 'mean')]


def pretrained(
  attention='factorised_encoder', task=None, frames=8, seed=0, sees=None, scale=0.3, **model
) -> Pretrained:
  """Returns a model of clips of `frames` x 32 x 48 (T x 2 x 3 tokens); `sees` is Preprocessing."""
  task = task or Task(classes=(len(LABELS),))
  config = Model(attention=attention, **{**SMALL, 'temporal_layers': 2, **model})
  vivit = ViViT(config, sum(task.classes))
  shapes = abstract_params(vivit, Clip(frames=frames, height=32, width=48))
  rng = np.random.default_rng(seed)

  def leaf(path, shape):
    center = 1.0 if path[-1].key == 'scale' else 0.0
    return (center + scale * rng.normal(size=shape.shape)).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(leaf, shapes)
  labels = LABELS if task.classes == (len(LABELS),) else None
  source = Source(
    Path('made here'), 'test', 'video', traverse_util.flatten_dict(params, sep='/'), config,
    frames, 32, 48, task, labels, Preprocessing(**{'stride': 2, **(sees or {})}), {},
  )  # fmt: skip
  return Pretrained(vivit, jax.device_put(params), source)


def save(model: Pretrained, file: Path) -> Path:
  """Writes a model as a safetensors file that commands load."""
  export.write(model.source, file)
  return file
