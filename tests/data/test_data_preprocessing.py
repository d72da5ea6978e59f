# SPDX-License-Identifier: Apache-2.0
"""From a video file to a model's values, against what other programs made of the same file.

tests/golden/preprocessing.py wrote the files. Ours go through the reader of `evaluate` and
`predict`, with nothing but the table of families.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from support.runs import ROOT
from support.views import read_views
from vivit_jax.config.schema import Model, Task
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.inference.predict import make_protocol
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights.families import FAMILIES
from vivit_jax.weights.source import Source

FOLDER = ROOT / 'tests/golden/preprocessing'
VIDEO = str(FOLDER / 'texture.mp4')
EXPECTED = np.load(FOLDER / 'expected.npz')
GOLDEN = [name for name in FAMILIES if name != 'image_vit']


def source_of(name, **changes):
  """Returns a family's checkpoint without weights; `changes` are of its preprocessing."""
  family = FAMILIES[name]
  wants = dataclasses.replace(family.preprocessing(family.size, family.size), **changes)
  return Source(
    Path(name), name, 'video', {}, Model(), family.frames, family.size, family.size,
    Task(classes=(2,)), None, wants, {},
  )  # fmt: skip


def levels_off(name, **changes):
  """Returns by how many of 256 levels values are off on average, in the family's own scale."""
  source = source_of(name, **changes)
  views, _ = read_views(source, Video(VIDEO, None, None, ()), 1, 1)
  protocol = make_protocol(source)
  values = np.asarray(normalize_pixels(jnp.asarray(views), protocol.mean, protocol.std))[0]
  step = int(EXPECTED['step'])
  found = values[EXPECTED['frames'], ::step, ::step]
  off = np.abs(found - EXPECTED[f'{name}/values'].astype(np.float32))
  return float((off * FAMILIES[name].wants.std).mean() * 255)


@pytest.mark.parametrize('name', GOLDEN)
def test_frames_and_values_are_those_of_the_familys_program(name):
  with VideoReader(VIDEO) as reader:
    (indices,) = evaluation_clips(reader.times, make_protocol(source_of(name)).clip, 1)
  np.testing.assert_array_equal(indices, EXPECTED[f'{name}/indices'])
  assert levels_off(name) < 1


WRONG = {
  'vivit': {'interpolation': 'area'},
  'videomae': {'short_side': 256},
  'timesformer': {'stride': 31},
  'vjepa2': {'short_side': 293},
  'videoprism': {'resize': 'short_side'},
}


@pytest.mark.parametrize('name', GOLDEN)
def test_another_rule_gives_other_values(name):
  assert levels_off(name, **WRONG[name]) > 1
  if (default := FAMILIES[name].class_default) is not None:
    assert levels_off(name, mean=default[0], std=default[1]) > 5
