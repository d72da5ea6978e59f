# SPDX-License-Identifier: Apache-2.0
"""TimeSformer (arXiv 2102.05095), divided space-time attention: fine-tuning on one's own videos.

    vivit data index FOLDER
    vivit train --config=configs/timesformer.py:B --config.data.root=FOLDER --workdir=RUN \\
      --config.init.checkpoint=hf://facebook/timesformer-base-finetuned-k400

The size is B: 8 frames of 224 x 224, a stride of 32. SGD with momentum 0.9, rate 0.005, weight
decay 1e-4, 15 epochs and batches of 64 are those of facebookresearch/TimeSformer
(configs/Kinetics/TimeSformer_divST_8x32_224.yaml), whose rate falls in two steps; ours is a cosine.
Its result on Kinetics-400, from image weights, is 77.9 %, and 59.1 % on Something-Something v2. Not
run at full size here. The weights are CC-BY-NC 4.0.

Words: `kinetics400`, `something_something_v2`; without them the classes are those of the data.
`probe` trains the head alone.
"""

from vivit_jax.weights.recipes import freeze_encoder, read_encoder


def get_config(variant: str = 'B'):
  config, words = read_encoder('timesformer', variant, ('B',), ('probe',))
  config.train.update(
    {
      'batch_size': 64,
      'epochs': 15.0,
      'warmup_epochs': 0.0,
      'learning_rate': 0.005,
      'weight_decay': 1e-4,
      'grad_clip_norm': 0.0,
    }
  )
  if 'probe' in words:
    freeze_encoder(config)
  return config
