# SPDX-License-Identifier: Apache-2.0
"""Code shared by the encoder recipes in configs/: the model and clip for pretrained weights."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import config_dict

from vivit_jax.config.file import defaults
from vivit_jax.config.recipes import finetune_as_videomae
from vivit_jax.config.schema import SIZES, Size
from vivit_jax.errors import ConfigError, nearest
from vivit_jax.weights.families import FAMILIES
from vivit_jax.weights.huggingface_models import MODELS

GIANT = Size(layers=40, width=1408, mlp_dim=6144, heads=22)
# The architecture of each family except its size, with the pooling of its published heads.
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
  'videoprism': MODELS['videoprism_vision_model'].fixed
  | {'patch': (1, 18, 18), 'pooling': 'attention', 'logit_cap': 50.0},
  'videomae': MODELS['videomae'].fixed | {'pooling': 'mean', 'final_norm': 'after_pooling'},
  'timesformer': MODELS['timesformer'].fixed | {'patch': (1, 16, 16), 'pooling': 'shared_cls'},
  'vjepa2': MODELS['vjepa2'].fixed | {'pooling': 'attention_block', 'pooler_layers': 3},
}
DATA_SETS = {'kinetics400': 400, 'something_something_v2': 174}


def read_encoder(
  family: str, variant: str, sizes: Collection[str], words: Collection[str] = ()
) -> tuple[config_dict.ConfigDict, frozenset[str]]:
  """Returns the defaults with a family's model and clip, and the words in a variant.

  Args:
    family: key of ARCHITECTURES.
    variant: `SIZE[,WORD...]`, e.g. `B,finetune,kinetics400`. A data set sets the number of classes;
      otherwise it is taken from the user's data.
    sizes: published sizes of the family.
    words: words of the recipe in addition to DATA_SETS.

  Raises:
    ConfigError: a size or word is unknown, or there are two data sets.
  """
  size, *given = variant.split(',')
  if size not in sizes:
    raise ConfigError(f'{size!r} is not a size of {FAMILIES[family].title}: {", ".join(sizes)}')
  offered = (*words, *DATA_SETS)
  for word in given:
    if word not in offered:
      raise ConfigError(f'{word!r} is not a word of this recipe{nearest(word, offered)}')
  sets = [word for word in given if word in DATA_SETS]
  if len(sets) > 1:
    raise ConfigError(f'{" and ".join(sets)} are mutually exclusive: give only one')
  config, known = defaults(), FAMILIES[family]
  config.model.update(dataclasses.asdict({**SIZES, 'g': GIANT}[size]))
  config.model.update({'gelu': 'exact', 'drop_path_rescale': True, **ARCHITECTURES[family]})
  config.update(known.settings())
  config.task.classes = tuple(DATA_SETS[word] for word in sets)
  if 'something_something_v2' in sets:
    config.clip.sampling = 'whole_video'
    config.augment.flip = 'swap_labels'
  return config, frozenset(given)


def finetune_encoder(config: config_dict.ConfigDict) -> None:
  """Configures training of all layers with VideoMAE's rates and the weights' own resizing."""
  short_side = config.evaluate.short_side
  finetune_as_videomae(config, epochs=30.0)
  config.evaluate.short_side = short_side


def freeze_encoder(config: config_dict.ConfigDict) -> None:
  """Configures training of only the head and its pooling."""
  two = config.model.attention.startswith('factorised_encoder')
  config.train.freeze = ('tokenizer', *(('spatial', 'temporal') if two else ('spacetime',)))
