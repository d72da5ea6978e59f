# SPDX-License-Identifier: Apache-2.0
"""VideoPrism (arXiv 2402.13217): a head on frozen weights, or fine-tuning of everything.

    vivit data index FOLDER
    vivit train --config=configs/videoprism.py:B --config.data.root=FOLDER --workdir=RUN \\
      --config.init.checkpoint=hf://google/videoprism-base-f16r288/flax_base_f16r288_repeated.npz

Sizes are B (16 frames of 288 x 288) and L (8 frames). By default the encoder is frozen and a
learned query attends to its tokens: their mean would lose all motion (Diving48: 4.5 % instead of
64 %). Adam at 1e-4 is that of the classification notebook of the repository, which trains for 5 to
50 epochs. The paper's frozen B gets 84.2 % on Kinetics-400 and 63.6 % on Something-Something v2.
Not run at full size here.

Words: `finetune` trains all layers, for which there is no published recipe: it has VideoMAE's rates
and regularisation. `kinetics400` and `something_something_v2` set the classes; without them they
are those of the data.
"""

from vivit_jax.weights.recipes import finetune_encoder, freeze_encoder, read_encoder


def get_config(variant: str = 'B'):
  config, words = read_encoder('videoprism', variant, ('B', 'L'), ('finetune',))
  config.model.temporal_layers = 4
  if variant.startswith('L'):
    config.clip.frames = 8
  if 'finetune' in words:
    finetune_encoder(config)
    return config
  freeze_encoder(config)
  config.train.update(
    {
      'optimizer': 'adamw',
      'learning_rate': 1e-4,
      'weight_decay': 0.0,
      'epochs': 20.0,
      'warmup_epochs': 0.0,
      'grad_clip_norm': 0.0,
    }
  )
  return config
