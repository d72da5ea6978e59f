# SPDX-License-Identifier: Apache-2.0
"""Moving digits, the embedded data set: learns eight motions on two CPU cores in four minutes.

    vivit train --config=configs/moving_digits.py --workdir=runs/moving_digits

takes about four minutes on two CPU cores and reaches 98 to 100 % top-1; chance is 12.5 %
(experiments/control.py). Choose another attention, `verb_noun` (action = both right) or `tags`
(multi-label) by a variant: `--config=configs/moving_digits.py:factorised_dot_product` or
`...:spatio_temporal,verb_noun`.
"""

from vivit_jax.config.file import defaults
from vivit_jax.data.moving_digits import NOUNS, VERBS
from vivit_jax.errors import ConfigError

TASKS = {  # kind, heads, classes, joint
  'verb': ('single_label', ('verb',), (len(VERBS),), None),
  'verb_noun': ('single_label', ('verb', 'noun'), (len(VERBS), len(NOUNS)), 'action'),
  'tags': ('multi_label', ('tags',), (len(VERBS) + len(NOUNS),), None),
}


def get_config(variant: str = 'factorised_encoder'):
  attention, _, task = variant.partition(',')
  if (task or 'verb') not in TASKS:
    raise ConfigError(f'task {task!r} is not one of {", ".join(TASKS)}')
  config = defaults()
  kind, heads, classes, joint = TASKS[task or 'verb']
  config.task.update({'kind': kind, 'heads': heads, 'classes': classes, 'joint': joint})

  config.model.attention = attention
  grid = attention in ('factorised_self_attention', 'factorised_dot_product')
  config.model.update({'layers': 4, 'width': 96, 'mlp_dim': 192, 'heads': 4})
  config.model.temporal_layers = 2
  config.model.patch = (2, 8, 8)
  config.model.tubelet_init = 'random'  # from scratch: sees motion from the first step
  config.model.pooling = 'mean' if grid else 'cls'

  config.clip.update({'frames': 8, 'stride': 2, 'height': 40, 'width': 40})
  config.data.source = 'moving_digits'
  config.augment.flip = 'off'  # left and right are classes
  # Never so large that the crop misses what moves.
  config.augment.crop.update({'short_side': 40, 'scale': (1.0, 1.2), 'stretch': False})

  config.train.update(
    {
      'batch_size': 32,
      'steps': 800,
      'optimizer': 'adamw',
      'learning_rate': 1.5e-3,
      'weight_decay': 0.05,
      'log_every': 20,
      'evaluate_every': 200,
      'checkpoint_every': 100,
    }
  )
  config.evaluate.batch_size = 64
  return config
