# SPDX-License-Identifier: Apache-2.0
"""Moments in Time as in the paper's Table 7, for every size and model.

    vivit data index FOLDER
    vivit train --config=configs/moments_in_time.py:L/16x2,factorised_encoder \\
      --config.init.checkpoint=ViT-L_16.npz --config.data.root=FOLDER --workdir=RUN

The paper trains on TPU-v3 (section 4.1) and tests with 4 views, as it says for all tables that do
not say otherwise. Its Table 6c: L/16x2 factorised encoder, top-1 38.5 %, top-5 64.1 %. Scenic has
no config for this data set.

Not run at full size: these are the results of the paper. The compiled step bounds the time from
below (docs/scale.md): 10 epochs of 800,000 videos take one H100 at least 25 hours (L factorised
encoder).

Words after the model:

- `modern`: VideoMAE's fine-tuning on Kinetics-400, for S, B, L and H, as long as Table 7 trains
  here;
- `batch_256`, `batch_1024`: larger batches with higher rates.
"""

from vivit_jax.config.recipes import KINETICS, finetune_by_script, read_variant, scale_batch


def get_config(variant: str = 'L/16x2,factorised_encoder'):
  config, words = read_variant(variant, ('modern',))
  config.task.classes = (339,)  # arXiv 1801.03150; later editions have other numbers
  config.train.update({'learning_rate': 0.25, 'epochs': 10.0})  # Table 7
  config.augment.color_jitter.update(
    {'probability': 0.8, 'drop': 0.1}
  )  # Table 7; drop: as on Kinetics
  config.evaluate.spatial_views = 1
  if 'modern' in words:
    finetune_by_script(config, KINETICS, epochs=10.0)
    config.train.warmup_epochs = 2.5 * config.augment.repeated_augmentation  # Table 7
  return scale_batch(config, words)
