# SPDX-License-Identifier: Apache-2.0
"""Mistakes a user can mend: each message is one line naming value, place and remedy."""

SAFE_CONVERSION = (
  'Unpickling runs code from the file, so it is refused. Where you trust it, convert it once, '
  'elsewhere, with PyTorch: python -c "import torch, safetensors.torch as s; '
  "t = torch.load('IN.bin', weights_only=True); t = t.get('model', t); "
  "s.save_file({k: v.contiguous().clone() for k, v in t.items()}, 'OUT.safetensors')\""
)


class UserError(Exception):
  """Base of all errors that the command line prints without a traceback."""


class ConfigError(UserError, ValueError):
  """A setting that cannot be used."""


class DataError(UserError):
  """A manifest, class list or video that cannot be used."""


class CheckpointError(UserError):
  """A checkpoint that is missing, damaged or of another model."""


class TrainingError(UserError):
  """A run whose numbers went wrong."""
