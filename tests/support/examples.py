# SPDX-License-Identifier: Apache-2.0
"""Reads single examples in this process, one request after the other, without batches."""

import numpy as np

from vivit_jax.data.examples import TrainingExamples
from vivit_jax.data.video.reader import DecodeError


def reading(examples):
  """Returns a function from an example's number to its record, of which a batch has one a row.

  'video' is uint8 [F, H, W, 3] in training and [T * S, F, H, W, 3] in evaluation, zeros where the
  example cannot be read, and then 'mask' is False; 'label', 'id' and 'failures' as in batches.
  """

  def read(number):
    failures = []
    while (request := examples.request(number, failures)) is not None:
      try:
        pixels, label = examples.reader(request)
      except DecodeError as error:
        failures.append((error.path, error.reason))
        continue
      video = pixels[0] if isinstance(examples, TrainingExamples) else pixels
      return _record(video, label, True, request.index, failures)
    clip = examples.reader.config.clip
    video = np.zeros((examples.rows, clip.frames, clip.height, clip.width, 3), np.uint8)
    return _record(video, examples.label(number), False, number, failures)

  return read


def _record(video, label, mask, index, failures):
  return {
    'video': video,
    'label': label,
    'mask': np.bool_(mask),
    'id': np.int32(index),
    'failures': failures,
  }
