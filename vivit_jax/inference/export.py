# SPDX-License-Identifier: Apache-2.0
"""Code shared by all export formats; every export is run and compared before it is kept."""

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

BOUND = 1e-4  # maximum difference between logits of the exported program and the original
SIZES = (1, 3)  # batch sizes that are compared if any is allowed

Run = Callable[[np.ndarray], np.ndarray]  # from a video to logits


class ExportError(UserError):
  """A model cannot be exported, or its export has different outputs."""


@dataclasses.dataclass(frozen=True)
class Export:
  """A model with its export options.

  Attributes:
    pretrained: the checkpoint.
    protocol: preprocessing of videos for it.
    uint8: whether the input is uint8 RGB pixels; otherwise normalized float32 values.
    batch: batch size; None = any.
  """

  pretrained: Pretrained
  protocol: Protocol
  uint8: bool
  batch: int | None

  @property
  def model(self) -> ViViT:
    """The model in float32 and with an attention kernel that all devices support."""
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
    """Returns float32 logits for an input of the exported program."""
    if self.uint8:
      protocol = self.protocol
      video = normalize_pixels(video, protocol.mean, protocol.std, protocol.channels)
    return apply(self.model, params, video)

  def clips(self, batch: int) -> np.ndarray:
    """Returns synthetic inputs that cover the value range."""
    source = self.pretrained.source
    shape = (batch, source.frames, source.height, source.width, 3)
    pixels = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
    if self.uint8:
      return pixels
    protocol = self.protocol
    values = normalize_pixels(jnp.asarray(pixels), protocol.mean, protocol.std, protocol.channels)
    return np.array(values)

  def metadata(self) -> dict[str, Any]:
    """Returns information for users of the exported program, as JSON values."""
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
  """Returns a model with its export options.

  Raises:
    ConfigError: the batch size is below 1.
    CheckpointError: there is no classifier, or the value range is unknown.
  """
  if batch is not None and batch < 1:
    raise ConfigError(f'--batch={batch} is not a number of clips: give 1 or more, or any')
  return Export(pretrained, make_protocol(pretrained.source, 1, 1, stride), uint8, batch)


def compare(export: Export, run: Run) -> float:
  """Returns the maximum difference between logits of an exported program and the original.

  Raises:
    ExportError: the difference is larger than BOUND.
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
        f'the exported program returns logits of shape {found.shape}, not {expected.shape}; '
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
  """Yields a temporary folder whose content is moved to `target` if there is no error.

  If `target` is a folder, the whole folder is moved; if it is a file, it is moved together with the
  files beside it. After an error, the temporary folder is deleted.

  Raises:
    ConfigError: the target exists, or its parent folder does not.
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
      for file in [*others, folder / target.name]:  # the file that refers to the others comes last
        file.replace(target.parent / file.name)
      folder.rmdir()
    else:
      folder.rename(target)
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def megabytes(target: Path) -> float:
  """Returns the size of an export in MB, including external data of a file."""
  files = [f for f in target.rglob('*') if f.is_file()] if target.is_dir() else [
    f for f in (target, target.with_name(f'{target.name}.data')) if f.exists()
  ]  # fmt: skip
  return sum(file.stat().st_size for file in files) / 1e6
