# SPDX-License-Identifier: Apache-2.0
"""Masked pretraining on video alone (VideoMAE, arXiv 2203.12602), for all four models.

    vivit data index VIDEOS --format=unlabeled
    vivit train --config=configs/pretrain.py:B/16x2,factorised_encoder --config.data.root=VIDEOS \\
      --workdir=runs/pretrained
    vivit train --config=configs/finetune.py --config.init.checkpoint=runs/pretrained \\
      --config.data.root=FOLDER --workdir=runs/mine

90 % of the tubes are hidden, and a small decoder predicts their pixels. Where labels exist, give
`--config.task.heads="('label',)"`: each evaluation then classifies the validation videos by their
nearest neighbors among frozen features of training videos.

Clips of 16 frames at stride 4, AdamW (0.9, 0.95), decay 0.05, 1.5e-4 for a batch of 256, warm-up
over 5 % of the run and the decoder's sizes are VideoMAE's for Kinetics-400 (table 8), crops of half
of the frame or more and four clips of each decoded video MAE-ST's (arXiv 2205.09113, table 6). The
pretrained factorised encoder keeps all patches in its temporal transformer; fine-tuning pools them.

VideoMAE reports for ViT-B, fine-tuned: Kinetics-400 80.0 % after 800 epochs (68.8 from scratch),
Something-Something v2 69.6 (32.6), UCF101 91.3 (51.4), HMDB51 62.6 (18.0): the less data, the more
it gives. Not run at full size here; `experiments/pretraining.py` says what it gives on two cores.
"""

from vivit_jax.config.recipes import read_variant, scale_batch

DECODERS = {192: 96, 384: 192, 768: 384, 1024: 512, 1280: 640}  # width by the encoder's


def get_config(variant: str = 'B/16x2'):
  config, words = read_variant(variant)
  model, width = config.model, config.model.width
  if model.attention == 'factorised_encoder':
    model.attention = 'factorised_encoder_by_patch'
  model.update({'pooling': 'none', 'tubelet_init': 'random', 'drop_path': 0.0})
  model.temporal_layers = 24 if model.layers == 24 else 4  # as in kinetics400.py
  decoder = DECODERS.get(width, width // 2)
  config.masked.update(
    {
      'decoder_width': decoder,
      'decoder_mlp_dim': 4 * decoder,
      'decoder_heads': max(1, decoder // 64),
    }
  )
  config.task.update({'kind': 'masked', 'heads': (), 'classes': ()})
  config.clip.update({'frames': 16, 'stride': 4})
  config.augment.crop.update({'kind': 'inception', 'area': (0.5, 1.0)})
  config.augment.repeated_augmentation = 4
  config.train.update(
    {
      'batch_size': 256,
      'epochs': 800.0,
      'warmup_epochs': 40.0,
      'optimizer': 'adamw',
      'learning_rate': 1.5e-4,
      'second_moment_decay': 0.95,
      'weight_decay': 0.05,
      'grad_clip_norm': 0.0,
    }
  )
  return scale_batch(config, words)
