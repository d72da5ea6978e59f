# SPDX-License-Identifier: Apache-2.0
"""What the recipes in configs/ share: words after a model's name, fine-tuning, larger batches."""

from collections.abc import Collection
from typing import get_args

from ml_collections import config_dict

from vivit_jax.config import Attention
from vivit_jax.config_file import apply_variant, defaults
from vivit_jax.config_parse import nearest
from vivit_jax.errors import ConfigError

BATCHES = {'batch_256': 256, 'batch_1024': 1024}  # offered by every recipe
EXCLUSIVE = (('scenic', 'modern'), tuple(BATCHES))


def read_variant(
  variant: str, offered: Collection[str] = ()
) -> tuple[config_dict.ConfigDict, frozenset[str]]:
  """Returns the defaults with the model that a name such as `B/16x2,factorised_encoder` means.

  Args:
    variant: `SIZE/PATCHxTUBELET[,ATTENTION][,WORD...]`, see `config_file.apply_variant`.
    offered: the words of the recipe beside BATCHES.

  Returns:
    The config, to which the recipe is still to be applied, and the words that were given.

  Raises:
    ConfigError: where a part is unknown or two words exclude each other.
  """
  name, *parts = variant.split(',')
  words = [part for part in parts if part in (*offered, *BATCHES)]
  attention = [part for part in parts if part not in words]
  choices = (*get_args(Attention), *offered, *BATCHES)
  for part in attention:
    if part not in choices:
      raise ConfigError(
        f'{part!r} is neither an attention nor a word of this recipe{nearest(part, choices)}'
      )
  for rivals in (get_args(Attention), *EXCLUSIVE):
    given = [part for part in parts if part in rivals]
    if len(given) > 1:
      raise ConfigError(f'{" and ".join(given)} exclude each other: give one of them')
  return apply_variant(defaults(), ','.join([name, *attention])), frozenset(words)


def scale_batch(config: config_dict.ConfigDict, words: Collection[str]) -> config_dict.ConfigDict:
  """Returns the config with the batch that a word asks for, if one does.

  The learning rate grows with the batch (arXiv 1706.02677), and averaged weights look back over as
  many clips as before (arXiv 2307.13813).
  """
  for size in (BATCHES[word] for word in words if word in BATCHES):
    times = size / config.train.batch_size
    config.train.batch_size = size
    config.train.learning_rate *= times
    config.train.ema_decay **= times
  return config


def finetune_as_videomae(
  config: config_dict.ConfigDict, epochs: float, rate: float = 5e-4, layer_decay: float = 0.75
) -> None:
  """Sets VideoMAE's fine-tuning (github.com/MCG-NJU/VideoMAE, run_class_finetuning.py).

  Its defaults there, but for averaged weights, which it has as an option. RandAugment is timm's
  `rand-m7-n4-mstd0.5-inc1`, here with the operations of TensorFlow models and without noise on the
  magnitude. Its batches and epochs count videos, of each of which a step sees two clips; ours count
  clips.

  Args:
    config: to change.
    epochs: of the script of the data set in its scripts/.
    rate: peak learning rate of a batch of 256 videos, from the same script.
    layer_decay: from the same script.
  """
  repeats = config.augment.repeats = 2
  config.train.update(
    {
      'optimizer': 'adamw',
      'learning_rate': rate * config.train.batch_size / repeats / 256,
      'epochs': epochs * repeats,
      'warmup_epochs': 5.0 * repeats,
      'weight_decay': 0.05,
      'clip_norm': 0.0,
      'label_smoothing': 0.1,
      'layer_decay': layer_decay,
      'ema_decay': 0.9999,
    }
  )
  config.mix.update({'mixup': 0.8, 'cutmix': 1.0, 'group': 2 * repeats})  # of different videos
  config.augment.crop.kind = 'inception'
  config.evaluate.short_side = min(config.clip.height, config.clip.width)
  config.augment.colour.update({'probability': 0.0, 'drop': 0.0})
  config.augment.rand_augment.update({'layers': 4, 'magnitude': 7.0})
  config.augment.erase.probability = 0.25
  config.model.update({'drop_path': 0.1, 'drop_path_rescale': True})


def finetune_on_kinetics(config: config_dict.ConfigDict) -> None:
  """Sets VideoMAE's fine-tuning on Kinetics-400, by its scripts for B and for L."""
  if config.model.layers == 24:
    finetune_as_videomae(config, epochs=35.0, rate=2e-3)
  else:
    finetune_as_videomae(config, epochs=75.0)
  config.evaluate.temporal_views = 5
