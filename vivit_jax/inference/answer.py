# SPDX-License-Identifier: Apache-2.0
"""All that a model has to say about one video: its labels, when they hold, and where it looked."""

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
  """What is known of one video.

  Attributes:
    heads: the most probable labels of each head, logits averaged over views, as `vivit predict`.
    timeline: None where the checkpoint's clips have no windows.
    names: of each head's classes.
    shares: probabilities of each head in each window.
    segments: of all heads.
    explanation: of the clip in the middle.
  """

  heads: dict[str, tuple[tuple[str, float], ...]]
  timeline: Timeline | None
  names: dict[str, tuple[str, ...]]
  shares: dict[str, np.ndarray]
  segments: list[Segment]
  explanation: Explanation


class Answerer:
  """Answers videos with programs that are compiled once."""

  def __init__(
    self,
    pretrained: Pretrained,
    views: tuple[int, int] | None = None,
    top: int = 5,
    stride: int | None = None,
  ):
    """Compiles nothing yet.

    Args:
      pretrained: a model with a classifier.
      views: temporal x spatial, of the labels; None = see schema.usual_views.
      top: labels per head.
      stride: between the frames of a clip, instead of the checkpoint's.

    Raises:
      CheckpointError: no classifier, or no value range.
    """
    self._pretrained, self._top, self._stride = pretrained, top, stride
    self._views = views or usual_views(pretrained.source.preprocessing)
    self.protocol = make_protocol(pretrained.source, *self._views, stride)
    self._explainer = Explainer(pretrained, top=top, stride=stride)
    whole_video = self.protocol.sampling != 'stride'
    self._timeliner = None if whole_video else Timeliner(pretrained, stride=stride)

  def answer(self, path: Path) -> Answer:
    """Answers a video.

    Raises:
      DecodeError: it cannot be read.
      DataError: the same, or the model's answer is no number.
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
