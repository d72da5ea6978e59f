# SPDX-License-Identifier: Apache-2.0
"""Why a model says what it says of one clip: its labels, and a map of where it looked."""

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
  """One clip explained.

  Attributes:
    grid: how much each token counts, [T, H', W']; sums to 1.
    of: the label that a gradient is of; None for a rollout, which is of no label.
    heads: the most probable labels of each head for this clip, as in predictions.
    seconds: of the clip, from its first frame until its last is no longer shown.
    frames: RGB, as the model sees them.
    shown: seconds that each is shown.
  """

  grid: Float32[np.ndarray, 't y x']
  of: str | None
  heads: dict[str, tuple[tuple[str, float], ...]]
  seconds: tuple[float, float]
  frames: UInt8[np.ndarray, 'f h w 3']
  shown: float

  def mp4(self) -> bytes:
    """Returns a video of the map over the frames, as long as the clip."""
    return as_mp4(overlay(self.frames, self.grid), self.shown)

  def png(self) -> bytes:
    """Returns a strip of frames with their maps."""
    return as_png(self.frames, overlay(self.frames, self.grid))


class Explainer:
  """Explains clips with one compiled program."""

  def __init__(
    self,
    pretrained: Pretrained,
    label: str | None = None,
    top: int = 5,
    stride: int | None = None,
  ):
    """Compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      label: takes the absolute gradient of its logit; None = attention rollout.
      top: labels per head.
      stride: between the frames of the clip, instead of the checkpoint's.

    Raises:
      ConfigError: a label that is not there.
      CheckpointError: no classifier, or no value range.
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
    """Explains the clip in the middle of a video, that of `predict --views=1x1`.

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
  """Returns where a label lies along the class axis; `HEAD:LABEL` where heads share a name.

  Raises:
    ConfigError: it is not there, or in several heads.
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
    f'--class={label} is none of the {len(places)} classes{nearest(label, names_only)}'
  )
