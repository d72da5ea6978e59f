# SPDX-License-Identifier: Apache-2.0
"""Code shared by the recipes in configs/: variant words, fine-tuning, larger batches."""

from collections.abc import Collection, Mapping
from typing import Any, get_args

from ml_collections import config_dict

from vivit_jax.config.file import apply_variant, defaults
from vivit_jax.config.schema import SIZES, Attention
from vivit_jax.errors import ConfigError, nearest

BATCHES = {'batch_256': 256, 'batch_1024': 1024}  # words of every recipe
EXCLUSIVE = (('scenic', 'modern'), tuple(BATCHES))


def read_variant(
  variant: str, offered: Collection[str] = ()
) -> tuple[config_dict.ConfigDict, frozenset[str]]:
  """Returns the defaults with the model that a name such as `B/16x2,factorised_encoder` means.

  Args:
    variant: `SIZE/PATCHxTUBELET[,ATTENTION][,WORD...]`, see `config.file.apply_variant`.
    offered: words that the recipe supports in addition to BATCHES.

  Returns:
    The config before the recipe is applied, and the words in `variant`.

  Raises:
    ConfigError: a part is unknown, or two words are mutually exclusive.
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
      raise ConfigError(f'{" and ".join(given)} are mutually exclusive: give only one')
  return apply_variant(defaults(), ','.join([name, *attention])), frozenset(words)


def scale_batch(config: config_dict.ConfigDict, words: Collection[str]) -> config_dict.ConfigDict:
  """Returns the config with the batch size set by one of the words, if any.

  The learning rate is scaled linearly with the batch size (arXiv 1706.02677), and the EMA decay so
  that the average spans the same number of clips (arXiv 2307.13813).
  """
  for size in (BATCHES[word] for word in words if word in BATCHES):
    times = size / config.train.batch_size
    config.train.batch_size = size
    config.train.learning_rate *= times
    config.train.ema_decay **= times
  return config


def finetune_as_videomae(
  config: config_dict.ConfigDict,
  epochs: float,
  *,
  rate: float = 5e-4,
  layer_decay: float = 0.75,
  lowest: float = 1e-6,
  start: float = 1e-6,
  drop_path: float = 0.1,
  head_dropout: float = 0.0,
  videos: int | None = None,
) -> None:
  """Sets VideoMAE's fine-tuning (github.com/MCG-NJU/VideoMAE, run_class_finetuning.py).

  These are its defaults, except for the EMA of the weights, which is optional there. RandAugment is
  timm's `rand-m7-n4-mstd0.5-inc1`, but with the operations of TensorFlow Models and without noise
  on the magnitude. VideoMAE's batch sizes and epochs count videos, with two clips of each in a
  step; ours count clips.

  Args:
    config: modified in place.
    epochs: from VideoMAE's script for the data set and model size in scripts/, as are all
      following arguments.
    rate: peak learning rate for a batch of 256 videos.
    layer_decay: see config.Train.
    lowest: final learning rate, for the same batch size as `rate`.
    start: learning rate at the start of the warm-up, for the same batch size as `rate`.
    drop_path: see config.Model.
    head_dropout: see config.Model.
    videos: videos per batch; None keeps the recipe's number of clips.
  """
  repeats = config.augment.repeated_augmentation = 2
  if videos is not None:
    config.train.batch_size = videos * repeats
  config.train.update(
    {
      'optimizer': 'adamw',
      'learning_rate': rate * config.train.batch_size / repeats / 256,
      'warmup_start': start / rate,
      'final_rate': lowest / rate,
      'epochs': epochs * repeats,
      'warmup_epochs': 5.0 * repeats,
      'weight_decay': 0.05,
      'grad_clip_norm': 0.0,
      'label_smoothing': 0.1,
      'layer_decay': layer_decay,
      'ema_decay': 0.9999,
    }
  )
  config.mix.update({'mixup': 0.8, 'cutmix': 1.0, 'group_size': 2 * repeats})  # of different videos
  config.augment.crop.kind = 'inception'
  config.evaluate.short_side = min(config.clip.height, config.clip.width)
  config.augment.color_jitter.update({'probability': 0.0, 'drop': 0.0})
  config.augment.rand_augment.update(
    {'layers': 4, 'magnitude': 7.0, 'probability': 0.5, 'fill': 'gray'}
  )
  config.augment.random_erasing.probability = 0.25
  config.model.update(
    {'drop_path': drop_path, 'drop_path_rescale': True, 'head_dropout': head_dropout}
  )


# By model size: scripts/kinetics/videomae_vit_*_patch16_224_tubemasking_ratio_0.9_epoch_1600.
KINETICS = {
  'S': {'epochs': 150.0},
  'B': {'epochs': 75.0},
  'L': {'epochs': 35.0, 'rate': 2e-3},
  'H': {
    'epochs': 50.0, 'rate': 1e-3, 'lowest': 1e-5, 'start': 1e-8, 'drop_path': 0.2,
    'head_dropout': 0.5, 'videos': 512,
  },
}  # fmt: skip
# scripts/ssv2/videomae_vit_*_patch16_224_tubemasking_ratio_0.9_epoch_2400.
SOMETHING_SOMETHING = {
  'S': {'epochs': 40.0, 'rate': 1e-3, 'layer_decay': 0.7},
  'B': {'epochs': 30.0},
}


def finetune_by_script(
  config: config_dict.ConfigDict, scripts: Mapping[str, Mapping[str, Any]], **changes: Any
) -> None:
  """Sets VideoMAE's fine-tuning from the script for the model size; B's if there is none."""
  size = next(name for name, size in SIZES.items() if size.width == config.model.width)
  script = scripts[size if size in scripts else 'B']
  finetune_as_videomae(config, **{**script, **changes})


def finetune_on_kinetics(config: config_dict.ConfigDict) -> None:
  """Sets VideoMAE's fine-tuning and test views for Kinetics-400."""
  finetune_by_script(config, KINETICS)
  config.evaluate.temporal_views = 5
