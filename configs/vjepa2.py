# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2 (arXiv 2506.09985): an attentive probe on frozen weights, or fine-tuning of everything.

    vivit data index FOLDER
    vivit train --config=configs/vjepa2.py:L,something_something_v2 --config.data.root=FOLDER \\
      --config.init.checkpoint=hf://facebook/vjepa2-vitl-fpc64-256 --workdir=RUN

Sizes are L, H and g, of 16 frames of 256 x 256. The probe has four blocks, the last with a learned
query; AdamW for 20 epochs in batches of 256 is that of facebookresearch/vjepa2 (configs/eval),
which trains 20 probes at once, of rates 5e-3, 3e-3, 1e-3, 3e-4 and 1e-4 with weight decays 0.01,
0.1, 0.4 and 0.8, and keeps the best: L gets 73.7 % on Something-Something v2.
experiments/probe_grid.py does so; this recipe is one of them, 1e-3 with 0.1. Not run at full size
here.

Words: `kinetics400`, `something_something_v2`; without them the classes are those of the data.
`finetune` trains all layers, for which there is no published recipe: it has VideoMAE's rates and
regularisation.
"""

from vivit_jax.weights.recipes import finetune_encoder, freeze_encoder, read_encoder


def get_config(variant: str = 'L'):
  config, words = read_encoder('vjepa2', variant, ('L', 'H', 'g'), ('finetune',))
  if 'finetune' in words:
    finetune_encoder(config)
    return config
  freeze_encoder(config)
  config.train.update(
    {
      'batch_size': 256,
      'epochs': 20.0,
      'warmup_epochs': 0.0,
      'optimizer': 'adamw',
      'learning_rate': 1e-3,
      'weight_decay': 0.1,
      'grad_clip_norm': 0.0,
    }
  )
  return config
