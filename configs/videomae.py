# SPDX-License-Identifier: Apache-2.0
"""VideoMAE (arXiv 2203.12602): its fine-tuning from self-supervised or fine-tuned weights.

    vivit data index FOLDER
    vivit train --config=configs/videomae.py:B,kinetics400 --config.data.root=FOLDER \\
      --config.init.checkpoint=hf://MCG-NJU/videomae-base --workdir=RUN

Sizes are S, B, L and H. The values are those of the scripts of the repository (MCG-NJU/VideoMAE,
scripts/kinetics and scripts/ssv2), which need 64 GPUs for Kinetics-400. They give S 79.0 %, B 81.5,
L 85.2 and H 86.6 on Kinetics-400 (16 frames, 5 x 3 views), S 66.8, B 70.8 and L 74.3 on
Something-Something v2 (2 x 3). Not run at full size here. The weights are CC-BY-NC 4.0.

Words: `kinetics400`, `something_something_v2`; without them the classes are those of the data, and
the values those of Kinetics-400. `probe` trains the head only, for which VideoMAE is not made:
38.9 % on Something-Something v2 instead of 69.6.
"""

from vivit_jax.config.recipes import KINETICS, SOMETHING_SOMETHING, finetune_by_script
from vivit_jax.weights.recipes import freeze_encoder, read_encoder


def get_config(variant: str = 'B'):
  config, words = read_encoder('videomae', variant, ('S', 'B', 'L', 'H'), ('probe',))
  sparse = 'something_something_v2' in words
  finetune_by_script(config, SOMETHING_SOMETHING if sparse else KINETICS)
  config.evaluate.temporal_views = 2 if sparse else 5
  if 'probe' in words:
    freeze_encoder(config)
    config.model.update({'drop_path': 0.0, 'head_dropout': 0.0})
    config.train.update({'layer_decay': 1.0, 'ema_decay': 0.0})
  return config
