# SPDX-License-Identifier: Apache-2.0
"""Full analysis of one video: labels, their timeline, and an attention map."""

import dataclasses
from pathlib import Path

import numpy as np

from vivit_jax.config.schema import usual_views
from vivit_jax.errors import DataError
from vivit_jax.evaluate.predictions import class_names
from vivit_jax.inference.explain import Explainer, Explanation
from vivit_jax.inference.predict import make_protocol, predict
from vivit_jax.inference.segments import Segment, all_segments, head_probabilities
from vivit_jax.inference.timeline import Timeline, Timeliner
from vivit_jax.weights.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Answer:
  """Results for one video.

  Attributes:
    heads: the most probable labels of each head, averaged over views as in `vivit predict`.
    timeline: timeline, or None if the checkpoint's sampling has no windows.
    names: class names of each head.
    shares: probabilities of each head in each window.
    segments: segments of all heads.
    explanation: attention map of the central clip.
  """

  heads: dict[str, tuple[tuple[str, float], ...]]
  timeline: Timeline | None
  names: dict[str, tuple[str, ...]]
  shares: dict[str, np.ndarray]
  segments: list[Segment]
  explanation: Explanation


class Answerer:
  """Analyzes videos; programs are compiled once and reused."""

  def __init__(
    self,
    pretrained: Pretrained,
    views: tuple[int, int] | None = None,
    top: int = 5,
    stride: int | None = None,
  ):
    """Sets up the models; compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      views: temporal x spatial views for the labels; None = see schema.usual_views.
      top: number of labels per head.
      stride: stride between the frames of a clip, instead of the checkpoint's.

    Raises:
      CheckpointError: there is no classifier, or the value range is unknown.
    """
    self._pretrained, self._top, self._stride = pretrained, top, stride
    self._views = views or usual_views(pretrained.source.preprocessing)
    self.protocol = make_protocol(pretrained.source, *self._views, stride)
    self._explainer = Explainer(pretrained, top=top, stride=stride)
    whole_video = self.protocol.sampling != 'stride'
    self._timeliner = None if whole_video else Timeliner(pretrained, stride=stride)

  def answer(self, path: Path) -> Answer:
    """Analyzes a video.

    Raises:
      DecodeError: it cannot be read.
      DataError: it cannot be read, or the logits are non-finite.
    """
    task, labels = self._pretrained.source.task, self._pretrained.labels
    assert task is not None
    temporal, spatial = self._views
    (prediction,) = predict(
      self._pretrained,
      [path],
      temporal_views=temporal,
      spatial_views=spatial,
      top=self._top,
      stride=self._stride,
    )
    if prediction.error is not None:
      raise DataError(prediction.error)
    timeline = None if self._timeliner is None else self._timeliner.run(path)
    names = class_names(task, labels)
    shares, found = {}, []
    if timeline is not None:
      shares = head_probabilities(task, timeline.logits)
      found = all_segments(task, names, shares, timeline.seconds, timeline.duration)
    return Answer(
      dict(prediction.heads),
      timeline,
      names,
      shares,
      found,
      self._explainer.explain(path),
    )
