# SPDX-License-Identifier: Apache-2.0
"""Contents whose bytes crash, hang or slow the process that asks for them; for other processes."""

import ctypes
import dataclasses
import os
import time
from pathlib import Path

from vivit_jax.data.bench import Files
from vivit_jax.data.worker import Work


@dataclasses.dataclass(frozen=True)
class Bad:
  """Local files, some of which do what damaged ones do to a decoder with a defect."""

  files: Files
  crash: tuple[int, ...] = ()
  leave: tuple[int, ...] = ()
  hang: tuple[int, ...] = ()
  raises: tuple[int, ...] = ()
  log: str | None = None  # folder that receives a file per process and video asked for

  def __getitem__(self, index: int) -> bytes:
    if self.log:
      Path(self.log, f'{os.getpid()}_{index}_{time.monotonic_ns()}').touch()
    if index in self.crash:
      ctypes.string_at(0)  # a signal from kill() would let this thread go on for a while
    if index in self.leave:
      os._exit(3)
    if index in self.hang:
      time.sleep(1e6)
    if index in self.raises:
      raise KeyError(f'no video {index}')
    return self.files[index]


class Crash(Work):
  """Stands for a decoder that every file ends."""

  def __call__(self, task) -> None:
    ctypes.string_at(0)
