# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on a few videos of your own, from weights that were trained on videos.

    vivit data index FOLDER
    vivit train --config=configs/finetune.py --config.init.checkpoint=WEIGHTS \\
      --config.data.root=FOLDER --workdir=RUN

The model and the clip are those of the weights: a Hugging Face folder, a run, a run of masked
pretraining (configs/pretrain.py). An image model can start any video model, so name one as the
variant, e.g. `--config=configs/finetune.py:B/16x2,factorised_encoder`. The number of classes is
that of the data.

AdamW with a peak rate of 5e-5, batches of 8 and warm-up over a tenth of the run is how Hugging
Face's video classification guide fine-tunes on a part of UCF101; stochastic depth 0.2 and label
smoothing 0.2 are the paper's (Table 7) for Epic-Kitchens, the smallest of its data sets. Give
`--config.augment.flip=off` if left and right are classes.

Not run at full size: no published weights could be downloaded. With small weights,
docs/notebooks/own_videos.ipynb fine-tunes in half a minute on a CPU. B/16x2 needs an accelerator:
on two CPU cores a clip of 112 x 112 pixels takes seconds (experiments/README.md).
"""

from vivit_jax.config.file import apply_variant, defaults


def get_config(variant: str = ''):
  config = apply_variant(defaults(), variant) if variant else defaults()
  config.init.architecture = 'config' if variant else 'checkpoint'
  config.model.temporal_layers = 24 if config.model.layers == 24 else 4  # as in kinetics400.py
  config.model.drop_path = 0.2
  config.task.classes = ()
  config.train.update(
    {
      'batch_size': 8,
      'epochs': 20.0,
      'warmup_epochs': 2.0,
      'optimizer': 'adamw',
      'learning_rate': 5e-5,
      'weight_decay': 0.05,
      'label_smoothing': 0.2,
      'evaluate_every': 200,
      'checkpoint_every': 200,
    }
  )
  return config
