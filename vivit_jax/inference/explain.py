# SPDX-License-Identifier: Apache-2.0
"""Explains the prediction for one clip: its labels and an attention or gradient map."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from vivit_jax.config.schema import head_slices
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.array import FrameArray
from vivit_jax.data.video.stream import VideoStream
from vivit_jax.errors import ConfigError, nearest
from vivit_jax.evaluate.predictions import class_names, most_probable
from vivit_jax.inference.attention_maps import gradient, rollout
from vivit_jax.inference.clock import central_window
from vivit_jax.inference.features import open_stream
from vivit_jax.inference.overlay import as_mp4, as_png, overlay
from vivit_jax.inference.predict import make_protocol
from vivit_jax.inference.windows import center_crop
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import apply
from vivit_jax.weights.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Explanation:
  """Explanation of one clip.

  Attributes:
    grid: weight of each token, [T, H', W']; sums to 1.
    of: label whose gradient it is; None for attention rollout, which is for no label.
    heads: the most probable labels of each head for this clip, as in predictions.
    seconds: start and end of the clip, including the duration of its last frame.
    frames: the model's input frames in RGB.
    shown: duration of each frame in seconds.
  """

  grid: Float32[np.ndarray, 't y x']
  of: str | None
  heads: dict[str, tuple[tuple[str, float], ...]]
  seconds: tuple[float, float]
  frames: UInt8[np.ndarray, 'f h w 3']
  shown: float

  def mp4(self) -> bytes:
    """Returns a video of the map over the frames, with the duration of the clip."""
    return as_mp4(overlay(self.frames, self.grid), self.shown)

  def png(self) -> bytes:
    """Returns a strip of frames with their maps."""
    return as_png(self.frames, overlay(self.frames, self.grid))


class Explainer:
  """Explains clips; the program is compiled once and reused."""

  def __init__(
    self,
    pretrained: Pretrained,
    label: str | None = None,
    top: int = 5,
    stride: int | None = None,
  ):
    """Sets up the model; compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      label: compute the absolute gradient of this label's logit; None = attention rollout.
      top: number of labels per head.
      stride: stride between the frames of the clip, instead of the checkpoint's.

    Raises:
      ConfigError: the label does not exist.
      CheckpointError: there is no classifier, or the value range is unknown.
    """
    source, model = pretrained.source, pretrained.model
    protocol = make_protocol(source, 1, 1, stride)
    self._source, self._protocol, self._label, self._top = source, protocol, label, top
    index = None if label is None else find_label(pretrained, label)
    self._params = jax.device_put(pretrained.params)

    @jax.jit
    def forward(params, video):
      values = normalize_pixels(video, protocol.mean, protocol.std, protocol.channels)
      mapped = (
        rollout(model, params, values) if index is None else gradient(model, params, values, index)
      )
      return apply(model, params, values), mapped

    self._forward = forward

  def explain(self, video: Video | Path | str | FrameArray) -> Explanation:
    """Explains the central clip of a video, the one of `predict --views=1x1`.

    Raises:
      DecodeError: it cannot be read.
    """
    with open_stream(video) as reader:
      return self._explain(reader)

  def _explain(self, reader: VideoStream) -> Explanation:
    window = central_window(reader.times, self._protocol)
    (ticks,) = window.ticks()
    frames = reader.read(window.frames[ticks], center_crop(self._protocol))[:, 0]
    logits, grid = self._forward(self._params, frames[None])
    task = self._source.task
    assert task is not None
    ((start, end),) = window.spans().tolist()
    return Explanation(
      np.asarray(grid[0], np.float32).reshape(self._source.grid),
      self._label,
      most_probable(np.asarray(logits[0]), task, self._source.labels, self._top),
      (start, end),
      frames,
      max((end - start) / len(frames), 1e-3),
    )


def find_label(pretrained: Pretrained, label: str) -> int:
  """Returns the index of a label along the class axis; write `HEAD:LABEL` if it is ambiguous.

  Raises:
    ConfigError: the label does not exist, or exists in several heads.
  """
  task = pretrained.source.task
  assert task is not None
  places: dict[str, int] = {}
  for head, names in class_names(task, pretrained.labels).items():
    start = head_slices(task)[head].start
    places |= {f'{head}:{name}': start + k for k, name in enumerate(names)}
  if label in places:
    return places[label]
  found = [place for name, place in places.items() if name.partition(':')[2] == label]
  if len(found) == 1:
    return found[0]
  if found:
    raise ConfigError(f'--class={label} is in several heads: give --class=HEAD:{label}')
  names_only = [name.partition(':')[2] for name in places]
  raise ConfigError(
    f'--class={label} is not one of the {len(places)} classes{nearest(label, names_only)}'
  )
