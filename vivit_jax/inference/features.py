# SPDX-License-Identifier: Apache-2.0
"""Features of videos: outputs of a model before its classifier, with their times."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Float64

from vivit_jax.data.manifest import Video
from vivit_jax.data.video.array import FrameArray
from vivit_jax.data.video.stream import VideoStream
from vivit_jax.evaluate.predictions import Protocol
from vivit_jax.inference.clock import Windows, central_window, lay_windows
from vivit_jax.inference.predict import make_protocol
from vivit_jax.inference.stages import Level, plainly, represent
from vivit_jax.inference.windows import batches, center_crop, run_ahead, with_window
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights.pretrained import Pretrained

Forward = Callable[[np.ndarray], jax.Array]
BATCH = 4  # windows per batch


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of one video.

  Attributes:
    values: float32, one row [D] (or [S, D] for `tokens`) for each row of `seconds`.
    seconds: start and end of each row, including the duration of its last frame.
  """

  values: Float32[np.ndarray, 'rows *d']
  seconds: Float64[np.ndarray, 'rows 2']


class Extractor:
  """Computes features of videos; the program is compiled once and reused.

  Attributes:
    row: shape of one row.
  """

  def __init__(
    self,
    pretrained: Pretrained,
    level: Level = 'clip',
    window: float | None = None,
    hop: float | None = None,
    stride: int | None = None,
  ):
    """Sets up the model; compiles nothing yet.

    Args:
      pretrained: a model, with or without a classifier.
      level: see `represent`.
      window: duration of a clip in seconds; None = by the checkpoint's stride.
      hop: seconds between the starts of clips; None = the duration of a clip.
      stride: stride between the frames of a clip, instead of the checkpoint's.

    Raises:
      ConfigError: the window or hop is invalid.
      CheckpointError: the value range is unknown.
    """
    source = pretrained.source
    self.level, self.hop = level, hop
    protocol = make_protocol(source, 1, 1, stride, needs_classifier=False)
    self.protocol = with_window(protocol, window)
    _, height, width = source.grid
    own = (height * width,) if level == 'tokens' else ()
    self.row = (*own, source.model.width)
    # Frames per row of a clip; with sampled frames, a row stands for the whole clip.
    tubelet = source.model.patch[0] if source.model.sampled_frames is None else source.frames
    self._frames = source.frames if level == 'clip' else tubelet
    self._repeats = 1 if level == 'clip' else source.grid[0] * tubelet // source.frames
    self._forward = compile_features(pretrained, self.protocol, level)

  def settings(self, checkpoint: str, step: int | None) -> dict[str, Any]:
    """Returns the settings that all feature files in a folder must share, as JSON values."""
    own = {'checkpoint': checkpoint, 'step': step, 'level': self.level, 'hop_seconds': self.hop}
    return json.loads(json.dumps({**own, 'protocol': dataclasses.asdict(self.protocol)}))

  def windows(self, video: VideoStream) -> Windows:
    """Returns the windows of an open video; raises ConfigError if the hop is invalid for it."""
    return lay_windows(video.times, self.protocol, self.hop, self.protocol.frames)

  def seconds(self, windows: Windows) -> Float64[np.ndarray, 'rows 2']:
    """Returns start and end of each row in seconds."""
    steps = windows.steps(self._frames)
    return np.repeat(steps.reshape(-1, 2), self._repeats, axis=0)

  def stream(
    self, video: VideoStream, windows: Windows
  ) -> Iterator[Float32[np.ndarray, 'rows *d']]:
    """Yields the rows of a video in order and in batches, with constant memory.

    Raises:
      DecodeError: a frame cannot be read.
    """
    shown = windows.frames[windows.ticks()]
    pixels = batches(video, shown, center_crop(self.protocol), BATCH)
    for values in run_ahead(self._forward, pixels):
      yield values.reshape(-1, *self.row)

  def whole(self, video: Video | Path | str | FrameArray) -> Features:
    """Returns the rows of all windows of a video at once; raises DecodeError."""
    with open_stream(video) as reader:
      return self._all(reader, self.windows(reader))

  def central(self, video: Video | Path | str | FrameArray) -> Features:
    """Returns the rows of the central clip, the one of `predict --views=1x1`."""
    with open_stream(video) as reader:
      return self._all(reader, central_window(reader.times, self.protocol))

  def _all(self, reader: VideoStream, windows: Windows) -> Features:
    values = list(self.stream(reader, windows))
    return Features(np.concatenate(values), self.seconds(windows))


def open_stream(video: Video | Path | str | FrameArray) -> VideoStream:
  """Opens a video or a span of one; returns frames in memory as they are; raises DecodeError."""
  if isinstance(video, FrameArray):
    return video
  if isinstance(video, Video):
    return VideoStream(video.path, video.start, video.end)
  return VideoStream(str(video))


def compile_features(pretrained: Pretrained, protocol: Protocol, level: Level) -> Forward:
  """Returns a function from clips, uint8 [B, F, H, W, 3], to float32 features [B, ...]."""
  model, params = plainly(pretrained.model), jax.device_put(pretrained.params)

  @jax.jit
  def forward(params, video):
    values = normalize_pixels(video, protocol.mean, protocol.std, protocol.channels)
    return represent(model, params, values, level)

  return lambda video: forward(params, video)
