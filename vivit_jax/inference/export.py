# SPDX-License-Identifier: Apache-2.0
"""Exports: what all formats have in common, above all that each is run before it gets its name."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vivit_jax import __version__
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.evaluate.predictions import Protocol
from vivit_jax.inference.predict import make_protocol
from vivit_jax.model.kernels import LONG, Kernel
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import ViViT, apply
from vivit_jax.weights.pretrained import Pretrained

BOUND = 1e-4  # between logits of the exported program and of this one
SIZES = (1, 3)  # batches that are compared where any may come

Run = Callable[[np.ndarray], np.ndarray]  # from a video to logits


class ExportError(UserError):
  """A model that cannot be exported, or whose export answers otherwise."""


@dataclasses.dataclass(frozen=True)
class Export:
  """What is exported, and how.

  Attributes:
    pretrained: the checkpoint.
    protocol: how videos are prepared for it.
    uint8: the input is RGB pixels, uint8; else values as the weights expect them, float32.
    batch: size of the batch; None = any.
  """

  pretrained: Pretrained
  protocol: Protocol
  uint8: bool
  batch: int | None

  @property
  def model(self) -> ViViT:
    """The model as it is exported: float32, and a kernel that every device has."""
    config = self.pretrained.model.config
    tokens = int(np.prod(self.pretrained.source.grid))
    long = config.attention == 'spatio_temporal' and tokens >= LONG
    kernel: Kernel = 'blockwise' if long else 'plain'
    return self.pretrained.model.clone(
      config=dataclasses.replace(
        config, dtype='float32', attention_kernel=kernel, remat='none', scan=False
      )
    )

  def forward(self, params: Any, video: jax.Array) -> jax.Array:
    """Returns float32 logits of an input of the exported program."""
    if self.uint8:
      protocol = self.protocol
      video = normalize_pixels(video, protocol.mean, protocol.std, protocol.channels)
    return apply(self.model, params, video)

  def clips(self, batch: int) -> np.ndarray:
    """Returns made-up inputs that fill the range of values."""
    source = self.pretrained.source
    shape = (batch, source.frames, source.height, source.width, 3)
    pixels = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
    if self.uint8:
      return pixels
    protocol = self.protocol
    values = normalize_pixels(jnp.asarray(pixels), protocol.mean, protocol.std, protocol.channels)
    return np.array(values)

  def metadata(self) -> dict[str, Any]:
    """Returns what a user of the exported program has to know, plain values."""
    source, protocol = self.pretrained.source, self.protocol
    task = source.task
    assert task is not None
    wants = 'RGB pixels 0 to 255, uint8' if self.uint8 else (
      '(pixel / 255 - mean) / std per channel, float32, channels in the order given'
    )  # fmt: skip
    return {
      'vivit_jax': __version__,
      'model': dataclasses.asdict(source.model),
      'task': dataclasses.asdict(task),
      'labels': source.labels,
      'input': {'type': 'uint8' if self.uint8 else 'float32', 'values': wants},
      'preprocessing': {
        'mean': protocol.mean,
        'std': protocol.std,
        'channels': protocol.channels,
        'resize': protocol.resize,
        'short_side': protocol.short_side,
        'interpolation': protocol.interpolation,
        'crop': 'all of the frame, resized to height x width'
        if protocol.resize == 'whole_frame'
        else 'center, after scaling until the frame covers height x width',
      },
      'clip': {
        'frames': protocol.frames,
        'height': protocol.height,
        'width': protocol.width,
        'stride': protocol.stride,
        'stride_from': protocol.stride_from,
        'stride_seconds': protocol.stride_seconds,
        'sampling': protocol.sampling,
      },
      'step': self.pretrained.step,
    }


def make_export(
  pretrained: Pretrained, uint8: bool = True, batch: int | None = None, stride: int | None = None
) -> Export:
  """Returns what is to be exported.

  Raises:
    ConfigError: a batch below 1.
    CheckpointError: no classifier, or no value range.
  """
  if batch is not None and batch < 1:
    raise ConfigError(f'--batch={batch} is no number of clips: give 1 or more, or any')
  return Export(pretrained, make_protocol(pretrained.source, 1, 1, stride), uint8, batch)


def compare(export: Export, run: Run) -> float:
  """Returns by how much logits of an exported program are off at most.

  Raises:
    ExportError: more than BOUND.
  """
  forward = jax.jit(export.forward)
  params = export.pretrained.params
  worst = 0.0
  for size in SIZES if export.batch is None else (export.batch,):
    video = export.clips(size)
    expected = np.asarray(forward(params, video))
    found = run(video)
    if found.shape != expected.shape:
      raise ExportError(
        f'the exported program gives logits of shape {found.shape}, not {expected.shape}; '
        'nothing was written'
      )
    off = float(np.abs(found - expected).max())
    worst = max(worst, off)
    if not off <= BOUND:  # NaN too
      raise ExportError(
        f'the logits of the exported program are off by {off:.2g} for a batch of {size}, more '
        f'than {BOUND:g}; nothing was written'
      )
  return worst


@contextlib.contextmanager
def written(target: Path) -> Iterator[Path]:
  """Gives an empty folder whose content gets its names when all went well, else it is deleted.

  A folder `target` is the whole; a file `target` is moved there with what lies beside it.

  Raises:
    ConfigError: the target exists, or the folder that it is to lie in does not.
  """
  if target.exists() or target.is_symlink():
    raise ConfigError(f'{target} exists: give another TARGET, or delete it first')
  if not target.parent.is_dir():
    raise ConfigError(f'{target.parent} does not exist: make the folder of TARGET first')
  folder = target.with_name(f'.{target.name}.{os.getpid()}')
  folder.mkdir()
  try:
    yield folder
    if (folder / target.name).is_file():
      others = [file for file in folder.iterdir() if file.name != target.name]
      for file in [*others, folder / target.name]:  # what names the others comes last
        file.replace(target.parent / file.name)
      folder.rmdir()
    else:
      folder.rename(target)
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def megabytes(target: Path) -> float:
  """Returns the size of what was written; of a file, with its external data."""
  files = [f for f in target.rglob('*') if f.is_file()] if target.is_dir() else [
    f for f in (target, target.with_name(f'{target.name}.data')) if f.exists()
  ]  # fmt: skip
  return sum(file.stat().st_size for file in files) / 1e6
