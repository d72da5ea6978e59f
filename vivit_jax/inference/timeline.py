# SPDX-License-Identifier: Apache-2.0
"""Predictions over a whole video, window by window.

The spatial stage of a factorised encoder processes each tubelet separately, and temporal positions
are added after it, so the result for a tubelet is the same in every window. Each tubelet is
therefore encoded once; only the temporal stage and the head run for every window. If the hop is not
a multiple of a tubelet, windows have different tubelet phases, and the spatial stage runs once per
phase. Other models share only decoding and cropping between windows.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int64

from vivit_jax.config.schema import Model
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.array import FrameArray
from vivit_jax.data.video.stream import VideoStream
from vivit_jax.evaluate.predictions import Protocol
from vivit_jax.inference.clock import Windows, check_hop, lay_windows
from vivit_jax.inference.features import open_stream
from vivit_jax.inference.predict import make_protocol
from vivit_jax.inference.stages import classify, embed, encode, plainly, pool
from vivit_jax.inference.windows import Watcher, batches, center_crop, run_ahead
from vivit_jax.model.stages import stages
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights.pretrained import Pretrained

TUBELETS = 16  # tubelets encoded per batch
WINDOWS = 64  # windows of encoded tubelets classified per batch
CLIPS = 4  # windows per batch for models without reuse of tubelets
OVERLAP = 4  # default number of windows per frame for such models


@dataclasses.dataclass(frozen=True)
class Timeline:
  """Predictions over a video.

  Attributes:
    seconds: start and end of each window, including the duration of its last frame.
    logits: logits of each window.
    hop: seconds between windows.
    phases: passes of the spatial stage; 0 if windows were run independently.
    varies: whether the frame rate varies, so windows have different durations.
    duration: duration of the video in seconds.
  """

  seconds: Float64[np.ndarray, 'windows 2']
  logits: Float32[np.ndarray, 'windows classes']
  hop: float
  phases: int
  varies: bool
  duration: float


class Timeliner:
  """Computes timelines; programs are compiled once and reused.

  Attributes:
    protocol: sampling of windows.
    reuses: whether tubelets are encoded once for all windows.
  """

  def __init__(
    self,
    pretrained: Pretrained,
    hop: float | None = None,
    stride: int | None = None,
    reuse: bool | None = None,
  ):
    """Sets up the model; compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      hop: seconds between windows; None = one tubelet if tubelets are reused, otherwise a quarter
        of a window.
      stride: stride between the frames of a window, instead of the checkpoint's.
      reuse: whether to encode tubelets once for all windows; None = if the model allows it.

    Raises:
      ConfigError: the hop is invalid, or clips have no fixed length.
      CheckpointError: there is no classifier, or the value range is unknown.
    """
    self.protocol = make_protocol(pretrained.source, 1, 1, stride)
    check_hop(self.protocol, hop)
    model = pretrained.source.model
    self.reuses = can_reuse(model) if reuse is None else reuse
    self._tubelet, self._hop = model.patch[0], hop
    self._unit = self._tubelet
    if not self.reuses:
      self._unit = max(1, self.protocol.frames // OVERLAP)
    self._classes = pretrained.source.classes
    self._pretrained = pretrained
    self._spatial, self._temporal = compile_parts(pretrained, self.protocol)

  def run(self, video: Video | Path | str | FrameArray, watch: Watcher | None = None) -> Timeline:
    """Returns the timeline of a video.

    Args:
      video: a file, a span of one, or frames in memory.
      watch: called with the time in seconds and the cropped RGB frame, for each frame used.

    Raises:
      DecodeError: it cannot be read.
      ConfigError: the hop is not possible with its frame rate.
    """
    with open_stream(video) as reader:
      windows = lay_windows(reader.times, self.protocol, self._hop, self._unit)
      reuse = self.reuses and windows.only is None
      stream = self._dense(reader, windows, watch) if reuse else self._each(reader, windows, watch)
      logits = np.empty((len(windows.starts), self._classes), np.float32)
      at = 0
      for some in stream:
        logits[at : at + len(some)] = some
        at += len(some)
      assert at == len(logits)
      return Timeline(
        windows.spans(),
        logits,
        windows.hop * windows.tick,
        self.phases(windows) if reuse else 0,
        windows.varies,
        float(reader.times[-1]) + windows.tick,
      )

  def phases(self, windows: Windows) -> int:
    """Returns the number of passes of the spatial stage for a hop."""
    step = self._tubelet * windows.stride
    return step // math.gcd(windows.hop, step)

  def _each(
    self, reader: VideoStream, windows: Windows, watch: Watcher | None
  ) -> Iterator[Float32[np.ndarray, 'n classes']]:
    """Yields logits of windows that are run independently, in batches."""
    shown = windows.frames[windows.ticks()]
    pixels = batches(reader, shown, center_crop(self.protocol), CLIPS, watch)
    yield from run_ahead(self._pretrained.forward, pixels)

  def _dense(
    self, reader: VideoStream, windows: Windows, watch: Watcher | None
  ) -> Iterator[Float32[np.ndarray, 'n classes']]:
    """Yields logits of windows whose tubelets are encoded once."""
    starts = windows.starts[:, None] + self._tubelet * windows.stride * np.arange(
      windows.length // self._tubelet
    )
    tubelets, places = np.unique(starts, return_inverse=True)
    places = places.reshape(starts.shape)
    ticks = tubelets[:, None] + windows.stride * np.arange(self._tubelet)
    pixels = batches(reader, windows.frames[ticks], center_crop(self.protocol), TUBELETS, watch)
    yield from self._classify(run_ahead(self._spatial, pixels), places)

  def _classify(
    self, encoded: Iterator[Float32[np.ndarray, 'n d']], places: Int64[np.ndarray, 'windows t']
  ) -> Iterator[Float32[np.ndarray, 'n classes']]:
    """Yields logits of windows as soon as all their tubelets are encoded; drops unneeded ones."""
    ring: dict[int, np.ndarray] = {}
    known, done = 0, 0
    for rows in encoded:
      ring |= dict(enumerate(rows, known))
      known += len(rows)
      ready = int(np.searchsorted(places[:, -1], known))
      while ready - done >= WINDOWS or (ready > done and ready == len(places)):
        some = places[done : min(ready, done + WINDOWS)]
        batch = np.stack([[ring[i] for i in row] for row in some.tolist()])
        filled = np.zeros((WINDOWS, *batch.shape[1:]), np.float32)
        filled[: len(batch)] = batch
        yield np.asarray(self._temporal(filled))[: len(batch)]
        done += len(some)
        oldest = places[done, 0] if done < len(places) else known
        for gone in [i for i in ring if i < oldest]:
          del ring[gone]


def can_reuse(model: Model) -> bool:
  """Returns whether a model encodes tubelets independently of each other and of their time."""
  return model.attention == 'factorised_encoder' and model.sampled_frames is None


def compile_parts(
  pretrained: Pretrained, protocol: Protocol
) -> tuple[Callable[[np.ndarray], jax.Array], Callable[[np.ndarray], jax.Array]]:
  """Returns the two parts of a factorised encoder.

  The first maps tubelets uint8 [B, t, H, W, 3] to outputs of the spatial stage, float32 [B, D]; the
  second maps windows of these, [B, T, D], to float32 logits [B, C].
  """
  params, model = jax.device_put(pretrained.params), plainly(pretrained.model)
  chain = stages(model.config)

  @jax.jit
  def spatial(params, video):
    values = normalize_pixels(video, protocol.mean, protocol.std, protocol.channels)
    return encode(model, params, chain[0], embed(model, params, values))[:, 0].astype(jnp.float32)

  @jax.jit
  def temporal(params, x):
    x = x.astype(jnp.dtype(model.config.dtype))
    for stage in chain[1:]:
      x = encode(model, params, stage, x)
    return classify(model, params, pool(x))

  return (lambda video: spatial(params, video)), (lambda x: temporal(params, x))
