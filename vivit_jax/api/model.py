# SPDX-License-Identifier: Apache-2.0
"""A loaded checkpoint with methods for prediction, features, attention maps and export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, overload

import jax

from vivit_jax.api.results import Attention, Features, Timeline
from vivit_jax.api.videos import Frames, Many, is_one, one_line_errors, one_video
from vivit_jax.data.index.videos import collect_videos
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.array import FrameArray
from vivit_jax.distributed.launch import keep_compiled_programs, quieten_libraries
from vivit_jax.errors import ConfigError, DataError, nearest
from vivit_jax.evaluate.predictions import Prediction, class_names, one_list
from vivit_jax.inference.explain import Explainer
from vivit_jax.inference.export import make_export
from vivit_jax.inference.features import Extractor
from vivit_jax.inference.formats import writer
from vivit_jax.inference.predict import predict
from vivit_jax.inference.segments import all_segments, head_probabilities
from vivit_jax.inference.timeline import Timeliner
from vivit_jax.weights.pretrained import Pretrained, load_quietly

Labels: TypeAlias = list[tuple[str, float]]
Level: TypeAlias = Literal['clip', 'frames', 'tokens']
Format: TypeAlias = Literal['onnx', 'stablehlo', 'page']


def load(
  checkpoint: str | Path, sha256: str | None = None, **facts: str | int | float | bool
) -> 'Model':
  """Loads a checkpoint of any format; the format is detected from its content.

  Args:
    checkpoint: a workdir of `train`, `WORKDIR/checkpoints/STEP`, a Hugging Face folder, a file of
      Scenic, of the original ViT, of timm or of this package, `hf://owner/name` or
      `gs://bucket/path` (the last two need vivit_jax[hub]).
    sha256: expected digest of the file.
    **facts: settings that the checkpoint does not have, e.g. attention='factorised_encoder'. An
      error lists missing ones; see `config.schema.CheckpointFacts` for all.

  Raises:
    UserError: one line with file, reason and remedy.
  """
  keep_compiled_programs()
  with quieten_libraries():
    return Model(load_quietly(checkpoint, sha256, **facts))


class Model:
  """A model with its labels and preprocessing, created by `load`.

  A video is a file, or all its frames as uint8 RGB [F, H, W, 3], with any F, H and W. Errors are
  one-line `UserError`s. Programs are compiled once and reused.
  """

  def __init__(self, pretrained: Pretrained):
    """Takes a loaded checkpoint; compiles nothing yet."""
    self._pretrained = pretrained
    self._extractors: dict[tuple[Level, float | None, float | None], Extractor] = {}
    self._explainers: dict[tuple[str | None, int], Explainer] = {}
    self._timeliners: dict[float | None, Timeliner] = {}

  @property
  def labels(self) -> tuple[str, ...]:
    """Class names; with several heads, those of all heads in order as `HEAD:LABEL`."""
    several = len(self._names) > 1
    return tuple(f'{h}:{n}' if several else n for h, names in self._names.items() for n in names)

  def __repr__(self) -> str:
    return repr(self._pretrained).replace('Pretrained(', 'Model(', 1)

  @overload
  def predict(
    self, x: str | Path | Frames, *, views: tuple[int, int] | None = ..., top: int = ...,
    fps: float | None = ..., progress: bool = ...,
  ) -> Labels: ...  # fmt: skip

  @overload
  def predict(
    self, x: Many, *, views: tuple[int, int] | None = ..., top: int = ...,
    fps: float | None = ..., progress: bool = ...,
  ) -> list[Prediction]: ...  # fmt: skip

  def predict(
    self,
    x: str | Path | Frames | Many,
    *,
    views: tuple[int, int] | None = None,
    top: int = 5,
    fps: float | None = None,
    progress: bool = False,
  ) -> Labels | list[Prediction]:
    """Predicts the labels of videos, like `vivit predict`.

    Args:
      x: a video; or a list of files, folders (searched for videos) and CSV files with a column
        `path`. A single folder or CSV file may be given without a list, but type checkers cannot
        distinguish it from a video.
      views: temporal x spatial views over which logits are averaged; None = those of the
        checkpoint, or else (4, 3).
      top: number of labels per head.
      fps: frames per second of an array of frames; required if the weights need frames at given
        times, otherwise 25 is assumed.
      progress: whether to show a progress bar.

    Returns:
      For one video, (label, probability) pairs, most probable first; with several heads, those of
      all heads in order, with labels HEAD:LABEL. Otherwise a `Prediction` for each video, in order:
      `path`, `labels` as above, and `error`, the reason if there are no labels.

    Raises:
      UserError: a single video cannot be read, or an argument is invalid.
    """
    one = is_one(x)
    videos: list[Video] | list[Video | FrameArray]
    if isinstance(x, list | tuple):
      videos = collect_videos(x)
    elif isinstance(x, str | Path) and not one:
      videos = collect_videos([x])
    else:
      videos = [self._video(x, fps)]
    temporal, spatial = views or (None, None)
    found = list(
      predict(
        self._pretrained,
        videos,
        temporal_views=temporal,
        spatial_views=spatial,
        top=top,
        progress=progress,
      )
    )
    if not one:
      return found
    (answer,) = found
    if answer.error is not None:
      raise DataError(f'{answer.path}: {answer.error}')
    return answer.labels

  def features(
    self,
    x: str | Path | Frames,
    *,
    level: Level = 'clip',
    whole: bool = False,
    hop: float | None = None,
    window: float | None = None,
    fps: float | None = None,
  ) -> Features:
    """Returns features of a video, the outputs before the classifier, like `vivit features`.

    Args:
      x: a video.
      level: 'clip' = the classifier's input; 'frames' = one row per tubelet of frames; 'tokens' =
        one row per tubelet with all its patches.
      whole: whether to use windows over the whole video instead of the central clip.
      hop: seconds between windows; None = the duration of a window.
      window: duration of a clip in seconds; None = by the stride of the weights.
      fps: see `predict`.

    Returns:
      `values` of the central clip, [D], [T, D] or [T, S, D] by level, or of all windows,
      [windows, D], [windows * T, D] or [windows * T, S, D]; and `seconds` of each row.

    Raises:
      UserError: the video cannot be read, or an argument is invalid.
    """
    if hop is not None and not whole:
      raise ConfigError(f'hop={hop} is only for windows over the whole video: give whole=True too')
    key = (level, window, hop)
    if key not in self._extractors:
      _check(level, ('clip', 'frames', 'tokens'), 'level')
      self._extractors[key] = Extractor(self._pretrained, level, window, hop)
    extractor, video = self._extractors[key], self._video(x, fps)
    with one_line_errors():
      found = extractor.whole(video) if whole else extractor.central(video)
    if whole or level != 'clip':
      return Features(found.values, found.seconds)
    return Features(found.values[0], found.seconds[0])

  def attention(
    self,
    x: str | Path | Frames,
    *,
    label: str | None = None,
    top: int = 5,
    fps: float | None = None,
  ) -> Attention:
    """Returns an attention map of the central clip of a video, like `vivit explain`.

    Args:
      x: a video.
      label: compute the absolute gradient of this class, i.e. which parts would change its logit.
        None = attention rollout, i.e. which parts reach the classifier, for no particular class.
      top: number of labels in the result.
      fps: see `predict`.

    Raises:
      UserError: the video cannot be read, or the label does not exist.
    """
    key = (label, top)
    if key not in self._explainers:
      self._explainers[key] = Explainer(self._pretrained, label, top)
    with one_line_errors():
      found = self._explainers[key].explain(self._video(x, fps))
    return Attention(
      found.grid.reshape(len(found.grid), -1), found.grid, found.of, one_list(found.heads),
      found.seconds, found.frames, found.shown,
    )  # fmt: skip

  def timeline(
    self, x: str | Path | Frames, *, hop: float | None = None, fps: float | None = None
  ) -> Timeline:
    """Returns the labels of a video over time, as segments, like `vivit timeline`.

    Args:
      x: a video of any length.
      hop: seconds between windows; None = one tubelet of frames for factorised encoders, otherwise
        a quarter of a window.
      fps: see `predict`.

    Raises:
      UserError: the video cannot be read, or the hop is invalid for it.
    """
    if hop not in self._timeliners:
      self._timeliners[hop] = Timeliner(self._pretrained, hop)
    with one_line_errors():
      found = self._timeliners[hop].run(self._video(x, fps))
    task = self._pretrained.source.task
    assert task is not None
    shares = head_probabilities(task, found.logits)
    segments = all_segments(task, self._names, shares, found.seconds, found.duration)
    return Timeline(tuple(segments), found.seconds, shares, self._names, found.duration)

  def export(
    self,
    target: str | Path,
    *,
    to: Format = 'onnx',
    batch: int | None = None,
    uint8: bool = True,
  ) -> float:
    """Exports the model, like `vivit export`, and verifies the logits of the export.

    Args:
      target: file (onnx) or folder to write; must not exist.
      to: 'onnx', 'stablehlo' or 'page', a folder for any static web server.
      batch: batch size; None = any.
      uint8: whether the input is uint8 RGB pixels; otherwise normalized float32 values.

    Returns:
      The maximum difference of the logits.

    Raises:
      UserError: it cannot be exported, or logits differ by more than 1e-4; nothing is written.
    """
    write = writer(to)
    if to == 'page' and (batch is not None or not uint8):
      raise ConfigError("to='page' takes neither batch nor uint8: its page calls the model itself")
    # Verified in full float32 on the CPU; accelerators use lower precision by default.
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      return write(make_export(self._pretrained, uint8, batch), Path(target))

  @property
  def _names(self) -> dict[str, tuple[str, ...]]:
    task = self._pretrained.source.task
    return {} if task is None else class_names(task, self._pretrained.labels)

  def _video(self, x: str | Path | Frames, fps: float | None) -> Video | FrameArray:
    return one_video(x, fps, self._pretrained.preprocessing.stride_seconds)


def _check(value: str, choices: Sequence[str], name: str) -> None:
  if value not in choices:
    raise ConfigError(f'{name}={value!r} is not a choice{nearest(value, choices)}')
