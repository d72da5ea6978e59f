# SPDX-License-Identifier: Apache-2.0
"""Which frames and which part of them the views of testing show, beside Scenic's."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from support.examples import reading
from support.recipes import recipe
from support.videos import config, write_dataset, write_images
from support.views import read_views
from vivit_jax.config.augment import Augment, TrainingCrop
from vivit_jax.config.file import load
from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.schema import CheckpointFacts, Clip, Config, Evaluate, Model, Task
from vivit_jax.data.augmentation.crop import SpatialCrops
from vivit_jax.data.examples import EvaluationVideos, read_view
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.inference.predict import make_protocol
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights import export
from vivit_jax.weights.load import load_source
from vivit_jax.weights.pretrained import load_run
from vivit_jax.weights.runs import write_run
from vivit_jax.weights.source import Preprocessing, Source

REFERENCE = Path(__file__).parent.parent / 'reference'
VIEWS = json.loads((REFERENCE / 'scenic_views.json').read_text())

# (stride, views, length of the video): those whose frames differ from Scenic's, by one each: there
# a clip takes up stride frames for each of its own, so that at stride 2 no view shows the video's
# last frame; here the last view ends with it.
LATER = {
  (2, 1, 65): (1,),
  (2, 4, 64): (0, 0, 0, 1),
  (2, 4, 65): (0, 0, 1, 1),
  (2, 4, 80): (0, 0, 1, 1),
  (2, 4, 100): (0, 0, 0, 1),
  (2, 4, 128): (0, 0, 1, 1),
  (2, 4, 250): (0, 0, 0, 1),
  (2, 4, 300): (0, 1, 1, 1),
  (2, 4, 400): (0, 0, 0, 1),
}


def test_temporal_views_show_the_frames_of_scenic_or_next_ones():
  seen = {}
  for case in VIEWS['temporal']:
    clip = Clip(32, stride=case['stride'])
    times = np.arange(case['length']) / 25.0
    ours = evaluation_clips(times, clip, case['views'])
    later = ours - np.array(case['frames'])
    assert (later == later[:, :1]).all()
    if later.any():
      seen[case['stride'], case['views'], case['length']] = tuple(later[:, 0].tolist())
  assert seen == LATER
  assert len(VIEWS['temporal']) == 52


@pytest.mark.parametrize('case', VIEWS['spatial'], ids=lambda c: f'{c["height"]}x{c["width"]}')
def test_spatial_views_are_the_boxes_of_scenic(case):
  """Within one pixel of the coarser of the source and the resized frame."""
  size = np.array([case['height'], case['width']])
  crops = SpatialCrops(case['crop'], case['crop'], 3, case['short_side'])
  step = size / case['resized']  # source pixels that a resized one covers
  for box, scenic in zip(
    crops.boxes(*size.tolist()), case['boxes_top_left_height_width'], strict=True
  ):
    corner, extent = np.array(scenic[:2]), np.array(scenic[2:])
    coarser = np.maximum(1.0, step)
    start = np.array(box[:2])
    assert (np.abs(start - corner * step) <= 0.7 * coarser).all()
    assert (np.abs(start + box[2:] - (corner + extent) * step) <= 0.7 * coarser).all()


def test_the_three_views_of_a_square_video_differ():
  boxes = SpatialCrops(224, 224, 3, 256).boxes(256, 256)
  assert [box[:2] for box in boxes] == [(16, 0), (16, 16), (16, 32)]
  portrait = SpatialCrops(224, 224, 3, 256).boxes(558, 556)  # 256 x 256 once resized
  assert len({box.left for box in portrait}) == 3
  assert len({box.top for box in portrait}) == 1


def test_short_sides_of_the_recipes():
  """Scenic's min_resize; VideoMAE's short_side_size; TAdaConv's TEST_SCALE."""
  assert Config().test_short_side == 256
  fe = 'factorised_encoder'
  for name in ('kinetics400', 'kinetics600', 'epic_kitchens', 'something_something_v2'):
    assert recipe(name, 'L/16x2', fe).test_short_side == 256
  scenic = recipe('something_something_v2', 'L/16x2', fe, 'scenic')
  assert (scenic.clip.height, scenic.evaluate.short_side) == (256, 288)
  for name in ('kinetics400', 'moments_in_time', 'something_something_v2'):
    assert recipe(name, 'B/16x2', '', 'modern').evaluate.short_side == 224
  assert recipe('ucf101').evaluate.short_side == 224
  assert recipe('epic_kitchens', 'B/16x2', fe, 'modern').evaluate.short_side == 320


def test_an_older_run_is_tested_at_its_training_short_side():
  tree = to_dict(Config(augment=Augment(crop=TrainingCrop(short_side=288))))
  assert 'short_side' in tree['evaluate']
  del tree['evaluate']['short_side']  # as earlier versions wrote it
  assert parse(tree).test_short_side == 288
  del tree['augment']['crop']['short_side']
  assert parse(tree).test_short_side == 256
  digits = load(['--config=configs/moving_digits.py'])
  crops = SpatialCrops(40, 40, 3, digits.test_short_side)
  assert crops.boxes(48, 56) == SpatialCrops(40, 40, 3).boxes(48, 56)  # all of the shorter side


@pytest.mark.parametrize('said, shown', [(None, 37), (32, 32), (40, 40)])
def test_validation_testing_and_prediction_show_the_same(tmp_path, rng, said, shown):
  root = write_dataset(tmp_path / 'data', 1)
  write_images(root / '0.mp4', rng.integers(0, 255, (24, 60, 96, 3), np.uint8))
  settings = dataclasses.replace(config(), evaluate=Evaluate(short_side=said))
  settings = dataclasses.replace(
    settings, model=Model(layers=1, width=8, mlp_dim=8, heads=1, patch=(2, 16, 16))
  )
  assert settings.test_short_side == shown
  manifest = read_manifest(root, 'validation', settings.task)
  tested = reading(EvaluationVideos(manifest, settings, 2, 3))(0)['video']
  validated = reading(EvaluationVideos(manifest, settings, 1, 1))(0)['video']
  np.testing.assert_array_equal(validated[0], read_view(manifest, 0, settings))

  source = load_source(_release(tmp_path, settings))
  write_run(source, tmp_path / 'run')
  for pretrained in (source, load_run(tmp_path / 'run').source):
    assert make_protocol(pretrained, 2, 3).short_side == shown
    predicted, _ = read_views(pretrained, manifest.videos[0], 2, 3)
    np.testing.assert_array_equal(predicted, tested)


def _release(folder, settings):
  """Writes weights of zeros for a configuration, which says its short side or leaves it open."""
  model, clip = settings.model, settings.clip
  shapes = traverse_util.flatten_dict(abstract_params(ViViT(model, 2), clip), sep='/')
  params = {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}
  preprocessing = Preprocessing(stride=clip.stride, short_side=settings.evaluate.short_side)
  source = Source(
    folder, 'test', 'video', params, model, clip.frames, clip.height, clip.width,
    Task(classes=(2,)), None, preprocessing, {},
  )  # fmt: skip
  export.write(source, folder / 'release.safetensors')
  return folder / 'release.safetensors'


def test_without_side_car_frames_are_resized_as_scenic_does(tmp_path):
  file = tmp_path / 'alone.msgpack'
  file.write_bytes((REFERENCE / 'scenic/factorised_encoder_cls.msgpack').read_bytes())
  source = load_source(file, CheckpointFacts(frames=8, height=32, width=32))
  assert source.preprocessing.short_side is None
  assert make_protocol(source).short_side == 37
  assert dataclasses.replace(source, height=224, width=224).short_side == 256
