# SPDX-License-Identifier: Apache-2.0
"""One clip through the whole pipeline, compared with stored results to detect any change."""

import json

import cv2
import numpy as np
import pytest

from golden import make
from vivit_jax.data import examples
from vivit_jax.data.video import frames, reader
from vivit_jax.inference import predict
from vivit_jax.weights import pretrained

EXPECTED = json.loads((make.FOLDER / make.EXPECTED).read_text())


def drifts():
  """Returns in what the clip differs from what is on file, computed anew.

  Decoded H.264 is the same everywhere; colour conversion and resizing are off by a rounding of a
  pixel between builds, so numbers are compared to less than what one level of all pixels makes.
  """
  found = json.loads(json.dumps(make.describe()))
  exact = ('protocol', 'frames', 'indices')
  different = [name for name in exact if found[name] != EXPECTED[name]]
  for name, tolerance in (('range', 0.02), ('colours', 0.002), ('quarters', 0.004)):
    if np.abs(np.subtract(found[name], EXPECTED[name])).max() > tolerance:
      different.append(name)
  if [label for label, _ in found['top']] != [label for label, _ in EXPECTED['top']]:
    different.append('labels')
  shares, expected = ([share for _, share in top] for top in (found['top'], EXPECTED['top']))
  if np.abs(np.subtract(shares, expected)).max() > 0.002:
    different.append('probabilities')
  return different


def test_the_golden_clip_is_what_it_was():
  assert drifts() == []
  assert len(EXPECTED['top']) == 5
  assert np.shape(EXPECTED['indices']) == (4, 8)
  assert np.shape(EXPECTED['colours']) == (12, 3)


def nearest(image, height, width):
  return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_NEAREST)


def patched(monkeypatch, module, name, change):
  """Replaces module.name by change of its result."""
  real = getattr(module, name)
  monkeypatch.setattr(module, name, lambda *a, **k: change(real(*a, **k)))


DRIFTS = {
  'nearest pixel': lambda patch: patch.setattr(frames, 'resize', nearest),
  'crops one pixel off': lambda patch: patched(
    patch, frames, 'resize', lambda crop: np.roll(crop, 1, axis=1)
  ),
  'one frame late': lambda patch: patched(
    patch, examples, 'evaluation_clips', lambda indices: np.minimum(indices + 1, 23)
  ),
  'blue first': lambda patch: patched(
    patch, reader.VideoReader, 'read', lambda frames: frames[..., ::-1]
  ),
  'upside down': lambda patch: patched(
    patch, frames.PlaneCutter, 'cut', lambda crops: crops[:, ::-1]
  ),
  'from 0 to 1': lambda patch: [
    patched(patch, module, 'normalize_pixels', lambda values: (values + 1) / 2)
    for module in (make, pretrained)
  ],
  'from -3 to 1': lambda patch: [
    patched(patch, module, 'normalize_pixels', lambda values: values * 2 - 1)
    for module in (make, pretrained)
  ],
  'another stride': lambda patch: patch.setattr(
    make, 'make_protocol', lambda source: predict.make_protocol(source, stride=1)
  ),
  'logits of one view': lambda patch: patched(
    patch, pretrained, 'apply', lambda logits: logits[:1].repeat(len(logits), axis=0)
  ),
}


@pytest.mark.parametrize('name', DRIFTS)
def test_the_golden_clip_notices(monkeypatch, name):
  DRIFTS[name](monkeypatch)
  assert drifts()
