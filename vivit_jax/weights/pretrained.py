# SPDX-License-Identifier: Apache-2.0
"""Loads weights of any format as a callable model, or to initialize another model."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Shaped, UInt8

from vivit_jax.checkpoint.manager import BEST, CHECKPOINTS
from vivit_jax.checkpoint.workdir import (
  SNAPSHOT,
)
from vivit_jax.config.clip import Preprocessing
from vivit_jax.config.parse import parse
from vivit_jax.config.schema import CheckpointFacts, Config
from vivit_jax.data.augmentation.views import views_of
from vivit_jax.errors import InputError, and_more, printable
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import ViViT, apply
from vivit_jax.weights.download import download
from vivit_jax.weights.initialize import initialize, initialize_decoder
from vivit_jax.weights.load import load_source
from vivit_jax.weights.normalization import fold
from vivit_jax.weights.origins import format_table
from vivit_jax.weights.runs import read_run
from vivit_jax.weights.source import Source, grid, without_decoder


@dataclasses.dataclass(frozen=True, repr=False)
class Pretrained:
  """A checkpoint as a callable model: `pretrained(frames)` returns the logits of raw frames.

  Attributes:
    model: `model.apply({'params': params}, video)` returns float32 logits of clips that already
      have the size and value range of the weights.
    params: nested dict of float32 arrays.
    source: origin, labels, clip size and preprocessing of the weights.
    step: step of the training run, if it is a run of this package.
    config: config of that run, with the settings under which the weights were saved.
  """

  model: ViViT
  params: Any
  source: Source
  step: int | None = None
  config: Config | None = None

  def __call__(self, frames: Shaped[np.ndarray, '...']) -> Float[np.ndarray, '... c']:
    """Returns float32 logits [C] of one clip, or [B, C] of several, preprocessed as in `predict`.

    Frames are resized, cropped to the central view, and normalized for the weights. Probabilities
    are the softmax over the classes of each head, or the sigmoid for multi_label tasks. `predict`
    takes files and returns names.

    Args:
      frames: uint8 RGB from 0 to 255 of any size, [F, H, W, 3] or [B, F, H, W, 3], with F equal to
        source.frames and a distance of source.preprocessing.stride video frames between them.

    Raises:
      InputError: the type or shape is wrong.
      CheckpointError: there is no classifier, or the value range is unknown.
    """
    source, several = self.source, frames.ndim == 5
    held = f'frames are {frames.dtype} {list(frames.shape)}'
    if frames.dtype != np.uint8:
      raise InputError(f'{held}: give uint8 RGB from 0 to 255, which is scaled here')
    if frames.ndim not in (4, 5) or frames.shape[-1] != 3 or not frames.size:
      raise InputError(f'{held}: give [F, H, W, 3] or [B, F, H, W, 3]')
    if frames.shape[-4] != source.frames:
      raise InputError(
        f'{held}: these weights need clips of {source.frames} frames: sample this number, or give '
        'the whole video to vivit_jax.load(...).predict'
      )
    source.normalization()  # raises if unknown
    clip = source.preprocessing.clip(source.frames, source.height, source.width)
    crop = views_of(clip, 1, source.short_side)
    clips = frames if several else frames[None]
    views = np.stack([np.concatenate([crop(frame) for frame in clip]) for clip in clips])
    logits = self.logits(views)
    return logits if several else logits[0]

  def logits(self, views: UInt8[np.ndarray, 'b f h w 3']) -> Float[np.ndarray, 'b c']:
    """Returns float32 logits of clips that already have the model's size; RGB from 0 to 255."""
    return np.asarray(self.forward(views))

  @functools.cached_property
  def forward(self) -> Callable[[Any], Array]:
    """The model as in `logits`, compiled once per batch size; does not wait for the result."""
    mean, std = self.source.normalization()
    channels = self.source.preprocessing.channels
    params = jax.device_put(self.params)
    compiled = jax.jit(
      lambda params, views: apply(self.model, params, normalize_pixels(views, mean, std, channels))
    )
    return functools.partial(compiled, params)

  def __repr__(self) -> str:
    source = self.source
    step = f', step {self.step}' if self.step is not None else ''
    return (
      f'Pretrained({str(source.path)!r}{step}: {source.format}, {source.kind} model '
      f'{source.model.attention}, {source.frames} frames of {source.height}x{source.width}, '
      f'{source.classes} classes, {sum(a.size for a in source.params.values()):,} parameters)'
    )

  @property
  def labels(self) -> tuple[str, ...] | None:
    """One name per class along the logits' last axis; None if the source has none."""
    return self.source.labels

  @property
  def preprocessing(self) -> Preprocessing:
    """Preprocessing of the weights."""
    return self.source.preprocessing


def load_pretrained(
  path: str | Path, sha256: str | None = None, **hints: str | int | float | bool
) -> Pretrained:
  """Loads a checkpoint of any format; the format is detected from its content.

  Reads Scenic ViViT and image ViT (msgpack), Hugging Face ViViT and ViT (folder or safetensors),
  the original ViT's .npz, timm ViT and DeiT (safetensors), our own exports, and our own workdirs
  (`best` parameters, also as `WORKDIR/best`; `WORKDIR/checkpoints/STEP` for a certain step).

  Prints to stderr which parameters were loaded and which are unused.

  Args:
    path: a file or folder, `hf://owner/name`, or `gs://bucket/path`.
    sha256: expected digest of the file.
    **hints: settings that the tensors do not determine, e.g. attention='factorised_dot_product';
      see config.CheckpointFacts. An error lists missing ones.

  Raises:
    CheckpointError: one line with file, reason and remedy.
    ConfigError: a hint does not exist or has an invalid value.
  """
  pretrained = load_quietly(path, sha256, **hints)
  print(_account(str(path), pretrained), file=sys.stderr)
  return pretrained


def load_quietly(
  path: str | Path, sha256: str | None = None, **hints: str | int | float | bool
) -> Pretrained:
  """Like `load_pretrained`, but prints nothing."""
  return _load(str(path), parse({'init': {'facts': hints}}).init.facts, sha256)


def load_run(
  workdir: Path, step: int | Literal['best', 'last'] = 'best', hints: CheckpointFacts | None = None
) -> Pretrained:
  """Loads the parameters of a training run of this package.

  Args:
    workdir: workdir of the run.
    step: 'best', 'last', or the number of a saved step.
    hints: settings, which must agree with the run.

  Raises:
    CheckpointError: the run or step does not exist, or the parameters do not match the model.
  """
  source, number, config = read_run(workdir, step, hints)
  return dataclasses.replace(_as_model(source), step=number, config=config)


def initialize_params(config: Config, fresh: Any) -> tuple[Any, str]:
  """Initializes a model from the checkpoint in config.init (paper section 3.4).

  Args:
    config: its `init` section has the checkpoint and options.
    fresh: the model's own initial parameters, nested.

  Returns:
    The parameters, nested, and a table of taken, resized, fresh and left over ones.

  Raises:
    CheckpointError: the checkpoint cannot be read or does not fit the model.
  """
  init, clip = config.init, config.clip
  assert init.checkpoint is not None
  hints = dataclasses.replace(init.facts, head=init.facts.head and init.head != 'init')
  source = fold(_load(init.checkpoint, hints).source, clip.mean, clip.std)
  whole = traverse_util.flatten_dict(jax.tree.map(np.asarray, fresh), sep='/')
  flat, own = without_decoder(whole)
  tokens = grid(config.model, clip.frames, clip.height, clip.width)
  params, rows = initialize(flat, config.model, tokens, source, init)
  if own:
    decoder, more = initialize_decoder(own, source)
    params, rows = params | decoder, rows + more
  title = f'{init.checkpoint}: {source.format}, {source.kind} model'
  lines = [*map(printable, (title, *source.notes)), format_table(rows)]
  return traverse_util.unflatten_dict(params, sep='/'), '\n'.join(lines)


def _load(path: str, hints: CheckpointFacts, sha256: str | None = None) -> Pretrained:
  place = download(path, sha256)
  is_step = place.name.isdecimal() and place.parent.name == CHECKPOINTS
  workdir = place.parent.parent if is_step else place.parent if place.name == BEST else place
  # A Hugging Face folder also has a config.json.
  if (workdir / SNAPSHOT).is_file() and (workdir / CHECKPOINTS).is_dir():
    return load_run(workdir, int(place.name) if is_step else 'best', hints)
  return _as_model(load_source(place, hints, sha256))


def read_source(path: str, hints: CheckpointFacts) -> Source:
  """Returns a checkpoint in our terms, as `load_pretrained` finds it; prints nothing."""
  return _load(path, hints).source


def _account(path: str, pretrained: Pretrained) -> str:
  """Returns the lines about loaded and unused parameters; the latter are grouped by reason."""
  source, step = pretrained.source, pretrained.step
  reasons: dict[str, list[str]] = {}
  for name, why in source.unused.items():
    reasons.setdefault(why, []).append(name)
  lines = [
    f'{path}: {source.format}, {source.kind} model {source.model.attention}'
    + (f', step {step}' if step is not None else ''),
    f'taken     {len(source.params)} parameters',
  ]
  lines += source.notes
  for why, names in reasons.items():
    lines.append(f'left over {and_more(names, 3)} ({why})')
  return '\n'.join(map(printable, lines))


def _as_model(source: Source) -> Pretrained:
  params = traverse_util.unflatten_dict(source.params, sep='/')
  return Pretrained(ViViT(source.model, source.classes), params, source)
