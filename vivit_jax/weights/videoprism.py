# SPDX-License-Identifier: Apache-2.0
"""Loads VideoPrism's original files (github.com/google-deepmind/videoprism)."""

import re
from collections.abc import Iterable

from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.weights import rename
from vivit_jax.weights.families import FAMILIES
from vivit_jax.weights.huggingface_models import MODELS
from vivit_jax.weights.names_encoders import VIDEOPRISM_FLAX
from vivit_jax.weights.readers import Checkpoint, Flat
from vivit_jax.weights.resolve import build
from vivit_jax.weights.source import Source

_STACK = 'transformers_stack/x_layers/'  # arrays here have a leading layer axis
_PREFIX = re.compile(r'^(params/)?(encoder/)?')


def is_videoprism(checkpoint: Checkpoint) -> bool:
  """Returns whether the names are those of the published files."""
  return any(
    name.endswith(('patch_projection/linear/kernel', 'spatial_pos_emb/emb_var'))
    for name in checkpoint.entries
  )


def load(checkpoint: Checkpoint, hints: CheckpointFacts) -> Source:
  """Loads a VideoPrism encoder or classifier from its npz, with the settings of its code.

  Norm scales are stored minus 1 there.

  Raises:
    CheckpointError: the model is not supported.
  """
  path = checkpoint.path
  names = {name: _PREFIX.sub('', name) for name in checkpoint.entries}
  layers = {name: checkpoint.entries[name].shape[0] for name in names if _STACK in name}
  own = {name: list(_unstacked(ours, layers.get(name))) for name, ours in names.items()}
  rules, unused = rename.plan(path, _flat(own.values()), VIDEOPRISM_FLAX, hints.head)
  arrays: Flat = {}
  for name, array in checkpoint.load(n for n in names if set(own[n]) <= rules.keys()).items():
    parts = array if name in layers else [array]
    arrays |= dict(zip(own[name], parts, strict=True))
  pooler = 'pooling_attention/query/w'
  params = rename.apply(path, arrays, rules, heads=1)
  kind = MODELS['videoprism_vision_model']
  said = {
    **kind.fixed,
    'gelu': 'exact',
    'norm_epsilon': 1e-6,
    'logit_cap': 50.0,
    'pooling': 'attention' if any(n.endswith(pooler) for n in names) else 'none',
  }
  return build(
    path,
    VIDEOPRISM_FLAX.name,
    params,
    said,
    hints,
    preprocessing=FAMILIES[kind.family].wants,
    unused=unused,
  )


def _unstacked(name: str, layers: int | None) -> Iterable[str]:
  if layers is None:
    return [name]
  return [name.replace(_STACK, f'{_STACK[:-1]}_{i}/') for i in range(min(layers, 1000))]


def _flat(lists: Iterable[list[str]]) -> list[str]:
  return [name for names in lists for name in names]
