# SPDX-License-Identifier: Apache-2.0
"""Epic-Kitchens-100 as in the paper's Table 7: verb and noun, and both right as action.

    vivit data index FOLDER --annotations=epic-kitchens-100-annotations
    vivit train --config=configs/epic_kitchens.py:B/16x2,factorised_encoder \\
      --config.init.checkpoint=KINETICS_RUN --config.data.root=FOLDER --workdir=RUN

KINETICS_RUN is the workdir, or the weights, of the same model on Kinetics-400: worth 1.2 points of
action accuracy over an image model (Table 4). Of L, train it with
`--config.model.temporal_layers=4` there, or give 24 here. The paper trains on TPU-v3 (section 4.1).
Top-1 in % with 4 x 1 views, which the model zoo of Scenic names for its L (43.6):

    variant                             action  verb  noun
    B/16x2                              43.1                Table 2
    B/16x2,factorised_encoder           43.7                Tables 2 and 4
    B/16x2,factorised_self_attention    39.1                Table 2
    B/16x2,factorised_dot_product       39.5                Table 2
    L/16x2,factorised_encoder           44.0    66.4  56.8  Table 6d
    B/16x2,factorised_encoder,modern    47.4                arXiv 2106.05058, from Kinetics-700

Not run at full size: these are the results of the paper. The compiled step bounds the time from
below (docs/scale.md): 50 epochs of 67,000 segments take one H100 at least 3 hours (B factorised
encoder).

Words after the model:

- `scenic`: every frame instead of every second one, as in Scenic's
  configs/epic_kitchens/vivit_large_factorised_encoder.py; as in its code, stochastic
  depth starts at 0 and RandAugment has no operations that move pixels; three of those it has differ
  from Scenic's (docs/fidelity.md);
- `modern`: that of arXiv 2106.05058, from github.com/alibaba-mmai-research/TAdaConv,
  configs/projects/epic-kitchen-ar/ek100/vivit_fac_enc.yaml;
- `batch_256`, `batch_1024`: larger batches with higher rates.
"""

from vivit_jax.config.recipes import read_variant, scale_batch


def get_config(variant: str = 'B/16x2,factorised_encoder'):
  config, words = read_variant(variant, ('scenic', 'modern'))
  config.task.update({'heads': ('verb', 'noun'), 'classes': (97, 300), 'joint': 'action'})
  config.evaluate.spatial_views = 1

  # Table 7, and equation 10 of appendix A.1 for the schedule.
  config.train.update({'learning_rate': 0.5, 'epochs': 50.0, 'label_smoothing': 0.2})
  config.model.update({'drop_path': 0.2, 'drop_path_schedule': 'paper'})
  config.mix.mixup = 0.1
  config.augment.rand_augment.update({'layers': 2, 'magnitude': 15.0})

  if 'scenic' in words:
    config.clip.stride = 1
    config.augment.rand_augment.operations = 'scenic'
    config.model.drop_path_schedule = 'from_zero'
  if 'modern' in words:
    config.clip.update({'height': 320, 'width': 320, 'stride_seconds': 2 / 60})
    config.augment.crop.update({'short_side': 336, 'scale': (1.0, 448 / 336), 'stretch': False})
    config.evaluate.short_side = 320
    config.train.update(
      {
        'optimizer': 'adamw',
        'batch_size': 128,
        'learning_rate': 1e-4,
        'warmup_epochs': 5.0,
        'warmup_start': 0.01,
        'weight_decay': 0.05,
      }
    )
    config.model.update({'drop_path_schedule': 'from_zero', 'drop_path_rescale': True})
    config.mix.update({'mixup': 0.2, 'cutmix': 1.0})
    config.augment.rand_augment.layers = 0
    config.augment.random_erasing.probability = 0.25
    # Their brightness is a factor of 0.5 to 1.5; ours, which is added, stays at its default.
    config.augment.color_jitter.update(
      {'probability': 1.0, 'contrast': (0.5, 1.5), 'saturation': (0.5, 1.5), 'hue': 0.25}
    )
  return scale_batch(config, words)
