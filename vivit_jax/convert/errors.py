# SPDX-License-Identifier: Apache-2.0
"""The one error of reading and converting checkpoints."""

from pathlib import Path

from vivit_jax import errors


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
