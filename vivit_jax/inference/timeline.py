# SPDX-License-Identifier: Apache-2.0
"""A model's answers over a whole video, window by window.

The spatial stage of a factorised encoder sees one tubelet of frames at a time, and positions in
time are added behind it, so what it makes of a tubelet is the same in every window that shows it.
Each tubelet is encoded once; only the temporal stage and the head run for every window. Windows
whose starts lie between tubelets have tubelets of their own: such a hop costs as many passes of the
spatial stage as there are such phases. The other models share decoding and cropping alone.
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

TUBELETS = 16  # encoded at a time
WINDOWS = 64  # of encoded tubelets, classified at a time
CLIPS = 4  # whole windows at a time, of models that have to see all of each
OVERLAP = 4  # windows that show each frame, where a window costs as much as a clip


@dataclasses.dataclass(frozen=True)
class Timeline:
  """Answers over a video.

  Attributes:
    seconds: of each window, from its first frame until its last is no longer shown.
    logits: of each window.
    hop: seconds from one window to the next.
    phases: passes of the spatial stage; 0 where windows were run one by one.
    varies: whether the frame rate does, so that windows do not all last as long.
    duration: seconds of the video.
  """

  seconds: Float64[np.ndarray, 'windows 2']
  logits: Float32[np.ndarray, 'windows classes']
  hop: float
  phases: int
  varies: bool
  duration: float


class Timeliner:
  """Makes timelines with programs that are compiled once.

  Attributes:
    protocol: how windows are sampled.
    reuses: whether tubelets are encoded once for all windows.
  """

  def __init__(
    self,
    pretrained: Pretrained,
    hop: float | None = None,
    stride: int | None = None,
    reuse: bool | None = None,
  ):
    """Compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      hop: seconds from one window to the next; None = one tubelet, or where a window costs as much
        as a clip, a quarter of it.
      stride: between the frames of a window, instead of the checkpoint's.
      reuse: False runs every window by itself; None = where the model allows more.

    Raises:
      ConfigError: a hop that is no time, or clips that have no fixed length.
      CheckpointError: no classifier, or no value range.
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
      video: a file, or a span of one.
      watch: is shown each frame that a window needs, RGB as the model sees it, and its seconds.

    Raises:
      DecodeError: it cannot be read.
      ConfigError: the hop does not fit its frame rate.
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
    """Returns how many passes of the spatial stage a hop takes."""
    step = self._tubelet * windows.stride
    return step // math.gcd(windows.hop, step)

  def _each(
    self, reader: VideoStream, windows: Windows, watch: Watcher | None
  ) -> Iterator[Float32[np.ndarray, 'n classes']]:
    """Yields logits of windows that are run one by one, several at a time."""
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
    """Yields logits of windows as soon as their last tubelets are there, and forgets the first."""
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
  """Whether a model encodes tubelets by themselves, wherever in the clip they are."""
  return model.attention == 'factorised_encoder' and model.sampled_frames is None


def compile_parts(
  pretrained: Pretrained, protocol: Protocol
) -> tuple[Callable[[np.ndarray], jax.Array], Callable[[np.ndarray], jax.Array]]:
  """Returns the two parts of a factorised encoder.

  The first makes of tubelets, uint8 [B, t, H, W, 3], what the spatial stage gives out, float32
  [B, D]; the second of windows of these, [B, T, D], float32 logits [B, C].
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
