# SPDX-License-Identifier: Apache-2.0
"""The one error of reading and converting checkpoints."""

from pathlib import Path

from vivit_jax import errors

SAFE_CONVERSION = (
  'Unpickling runs code from the file, so it is refused. Where you trust it, convert it once, '
  'elsewhere, with PyTorch: python -c "import torch, safetensors.torch as s; '
  "t = torch.load('IN.bin', weights_only=True); t = t.get('model', t); "
  "s.save_file({k: v.contiguous().clone() for k, v in t.items()}, 'OUT.safetensors')\""
)


class CheckpointError(errors.CheckpointError):
  """A checkpoint file that cannot be used; its message is one line naming file and reason.

  Attributes:
    path: the file or folder.
    reason: what is wrong with it and, where there is one, the remedy.
  """

  def __init__(self, path: str | Path, reason: str):
    self.path = Path(path)
    self.reason = ' '.join(reason.split())
    super().__init__(f'{self.path}: {self.reason}')
