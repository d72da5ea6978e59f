# SPDX-License-Identifier: Apache-2.0
"""UCF101, which the paper does not have: the fine-tuning of VideoMAE, for every size and model.

    vivit data index FOLDER
    vivit train --config=configs/ucf101.py:B/16x2 \\
      --config.init.checkpoint=hf://google/vivit-b-16x2-kinetics400 --config.data.root=FOLDER \\
      --workdir=RUN

Values and the 5 x 3 views are those of VideoMAE's
scripts/ucf101/videomae_vit_base_patch16_224_tubemasking_ratio_0.75_epoch_3200/finetune.sh, which
needs 8 GPUs, except for averaged weights. `--format=ucf101:2` and `ucf101:3` are the other two
divisions of the data.

Not run at full size, and there is no result in the paper of ViViT to expect.

Words after the model: `batch_256`, `batch_1024` for larger batches with higher rates.
"""

from vivit_jax.config.recipes import finetune_as_videomae, read_variant, scale_batch


def get_config(variant: str = 'B/16x2'):
  config, words = read_variant(variant)
  config.task.classes = (101,)
  config.model.temporal_layers = 24 if config.model.layers == 24 else 4  # as in kinetics400.py
  finetune_as_videomae(
    config, epochs=100.0, layer_decay=0.7, lowest=1e-5, start=1e-8, drop_path=0.2, head_dropout=0.5
  )
  config.train.ema_decay = 0.0  # 0.9999 looks back over 10,000 steps, and there are only 15,000
  config.evaluate.temporal_views = 5
  return scale_batch(config, words)
