# SPDX-License-Identifier: Apache-2.0
"""Video Vision Transformers (ViViT, Arnab et al., ICCV 2021) in JAX.

    import vivit_jax as vivit

    model = vivit.load('runs/mine')
    model.predict('clip.mp4')

Everything is imported on first use, so that `import vivit_jax` and `vivit --help` are quick.
"""

import importlib
import types

TYPE_CHECKING = False  # as in typing, whose import would take longer than all of this file

if TYPE_CHECKING:
  from vivit_jax.api.model import Model, load
  from vivit_jax.api.results import Attention, Features, Timeline
  from vivit_jax.api.run import Run, train
  from vivit_jax.config.schema import Config
  from vivit_jax.errors import UserError
  from vivit_jax.evaluate.predictions import Prediction
  from vivit_jax.inference.segments import Segment
  from vivit_jax.weights.pretrained import load_pretrained as load_pretrained

__version__ = '0.2.0'
__all__ = [
  'Attention', 'Config', 'Features', 'Model', 'Prediction', 'Run', 'Segment', 'Timeline',
  'UserError', 'load', 'train',
]  # fmt: skip

_HOMES = {
  'Attention': 'api.results',
  'Config': 'config.schema',
  'Features': 'api.results',
  'Model': 'api.model',
  'Prediction': 'evaluate.predictions',
  'Run': 'api.run',
  'Segment': 'inference.segments',
  'Timeline': 'api.results',
  'UserError': 'errors',
  'load': 'api.model',
  'load_pretrained': 'weights.pretrained',
}


class _TrainPackage(types.ModuleType):
  """The package `train`, callable as the function of the same name."""

  def __call__(self, *arguments: object, **keywords: object) -> object:
    """See `api.run.train`."""
    return importlib.import_module('vivit_jax.api.run').train(*arguments, **keywords)


# Importing from the package `train` would otherwise replace a function of that name.
importlib.import_module('vivit_jax.train').__class__ = _TrainPackage

if not TYPE_CHECKING:  # otherwise type checkers would accept misspelt names

  def __getattr__(name):
    if name not in _HOMES:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)

  def __dir__():
    return sorted({*globals(), *_HOMES, 'train'})
