# SPDX-License-Identifier: Apache-2.0
"""What weights expect of a video: read, checked, stored with them, applied wherever they run."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from support.runs import ROOT
from support.working_models import pretrained
from vivit_jax.config.clip import HALF, Clip, Preprocessing, of_range
from vivit_jax.config.file import defaults
from vivit_jax.config.parse import check_views, parse
from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.data.augmentation.crop import RandomCrop, Scaled, SpatialCrops
from vivit_jax.data.augmentation.views import ResizedViews, views_of
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.inference.predict import make_protocol
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights import export
from vivit_jax.weights.families import FAMILIES, IMAGENET_MEAN, IMAGENET_STD
from vivit_jax.weights.load import load_source
from vivit_jax.weights.normalization import fold
from vivit_jax.weights.pretrained import load_run
from vivit_jax.weights.processor import processor_config, read_processor
from vivit_jax.weights.runs import write_run

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
ALL = {  # nothing at its default
  'mean': IMAGENET_MEAN,
  'std': IMAGENET_STD,
  'channels': 'bgr',
  'stride': 4,
  'sampling': 'whole_video_first',
  'resize': 'whole_frame',
  'interpolation': 'lanczos',
  'views': (2, 1),
}


def said(mean, std, **others):
  return {'image_mean': list(mean), 'image_std': list(std), 'do_normalize': True, **others}


UNIT = {'do_normalize': False, 'rescale_factor': 1 / 255, 'do_rescale': True}
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
  'name, config, expected, note',
  [
    (
      'vivit',
      said(HALF[:3], HALF, rescale_factor=1 / 127.5),
      (HALF, HALF),
      "Hugging Face's default",
    ),
    ('vivit', {'do_normalize': False}, (HALF, HALF), None),
    ('videomae', said(HALF, HALF), IMAGENET, "Hugging Face's default"),
    ('videomae', {'do_resize': True}, IMAGENET, "Hugging Face's default"),
    ('videomae', said(*IMAGENET), IMAGENET, None),
    ('videomae', said(*OWN), OWN, 'using the file'),
    ('timesformer', said(*IMAGENET), ((0.45,) * 3, (0.225,) * 3), "Hugging Face's default"),
    ('timesformer', said((0.45,) * 3, (0.225,) * 3), ((0.45,) * 3, (0.225,) * 3), None),
    ('vjepa2', {'do_resize': True}, IMAGENET, None),
    ('videoprism', UNIT, ((0.0,) * 3, (1.0,) * 3), None),
    ('videoprism', None, ((0.0,) * 3, (1.0,) * 3), None),
    ('image_vit', said(*OWN), OWN, None),
    ('image_vit', None, (None, None), None),
  ],
)
def test_what_was_trained_is_taken_and_other_files_are_named(
  tmp_path, name, config, expected, note
):
  if config is not None:
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(config))
  wants, notes = read_processor(tmp_path, name, None, CheckpointFacts())
  for found, wanted in zip((wants.mean, wants.std), expected, strict=True):
    assert found == (wanted if wanted is None else pytest.approx(wanted))
  assert len(notes) == (note is not None)
  assert note is None or note in notes[0]
  if config is not None:
    fed, notes = read_processor(tmp_path, name, None, CheckpointFacts(value_range='processor'))
    assert notes == ()
    if note and 'default' in note:
      assert (fed.mean, fed.std) == FAMILIES[name].class_default


@pytest.mark.parametrize('name', [name for name in FAMILIES if name != 'image_vit'])
def test_the_processor_that_we_write_says_what_we_read(tmp_path, name):
  wants = FAMILIES[name].preprocessing(64, 64)
  source = dataclasses.replace(pretrained(sees={}).source, height=64, width=64, preprocessing=wants)
  config = processor_config(source, name)
  # transformers 5 nests it.
  (tmp_path / 'processor_config.json').write_text(json.dumps({'video_processor': config}))
  found, notes = read_processor(tmp_path, name, (64, 64), CheckpointFacts())
  short = 73 if name in ('vivit', 'vjepa2') else wants.short_side
  assert (found, notes) == (dataclasses.replace(wants, short_side=short), ())
  _, notes = read_processor(tmp_path, name, (32, 32), CheckpointFacts())
  crops = name != 'videoprism'
  assert [note.endswith('needs 32x32: using the latter') for note in notes] == [True] * crops


@pytest.mark.parametrize('name', [name for name in FAMILIES if name != 'image_vit'])
def test_experiments_can_see_videos_as_a_family_does(name):
  config = defaults()
  config.update(FAMILIES[name].settings(size=160))
  parsed = parse(config.to_dict())
  check_views(parsed.evaluate.temporal_views, parsed.evaluate.spatial_views, parsed.clip)
  wants = FAMILIES[name].preprocessing(160, 160)
  assert parsed.clip == wants.clip(FAMILIES[name].frames, 160, 160)
  assert parsed.test_short_side == (wants.short_side or 183)


def test_exports_and_runs_keep_all_of_it(tmp_path):
  model = pretrained('spatio_temporal', sees=ALL, layers=1)
  export.write(model.source, tmp_path / 'x.safetensors')
  assert load_source(tmp_path / 'x.safetensors').preprocessing == Preprocessing(**ALL)
  write_run(model.source, tmp_path / 'run')
  run = load_run(tmp_path / 'run')
  kept = ALL | {
    'mean': IMAGENET_MEAN[::-1], 'std': IMAGENET_STD[::-1], 'channels': 'rgb', 'views': None,
  }  # fmt: skip
  assert dataclasses.replace(run.preprocessing, short_side=None) == Preprocessing(**kept)
  frames = np.random.default_rng(0).integers(0, 256, (8, 60, 50, 3), np.uint8)
  np.testing.assert_allclose(run(frames), model(frames), atol=2e-5)


def test_a_value_range_of_earlier_files_is_mean_and_deviation():
  """tests/golden/model.safetensors says low and high."""
  found = load_source(ROOT / 'tests/golden/model.safetensors').preprocessing
  assert (found.mean, found.std, found.short_side) == (HALF, HALF, 36)
  mean, std = of_range((-2.0, -1.0, 0.0), (2.0, 3.0, 1.0))
  assert (mean, std) == ((0.5, 0.25, 0.0), (0.25, 0.25, 1.0))
  pixels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 1, 1, 256, 1) * jnp.ones(3, jnp.uint8)
  was = pixels.astype(jnp.float32) / (255.0 / (jnp.ones(3) + 1.0)) - 1.0
  np.testing.assert_array_equal(normalize_pixels(pixels), was)  # to the bit


@pytest.mark.parametrize('channels', ['rgb', 'bgr'])
def test_weights_of_other_pixels_start_the_same_function(channels):
  mean, std = (0.1, 0.2, 0.3), (0.2, 0.3, 0.4)
  sees = {'mean': mean, 'std': std, 'channels': channels}
  model = pretrained('spatio_temporal', sees=sees, layers=1)
  folded = fold(model.source, *IMAGENET)
  assert folded.preprocessing == Preprocessing(*IMAGENET, stride=2)
  pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 32, 48, 3), np.uint8)
  params = dict(model.params) | {
    'tokenizer': {n: jnp.asarray(folded.params[f'tokenizer/{n}']) for n in ('kernel', 'bias')}
  }
  found = model.model.apply({'params': params}, normalize_pixels(jnp.asarray(pixels), *IMAGENET))
  np.testing.assert_allclose(found, model.logits(pixels), atol=2e-5)


def test_raw_frames_are_prepared_as_the_weights_expect():
  """float32 as the original model takes it, or uint8 of any size: the same logits."""
  wants = {name: ALL[name] for name in ('mean', 'std', 'resize', 'interpolation')}
  model = pretrained('spatio_temporal', sees=wants, layers=1)
  frames = np.random.default_rng(2).integers(0, 256, (8, 90, 70, 3), np.uint8)
  small = [
    np.asarray(Image.fromarray(f).resize((48, 32), Image.Resampling.LANCZOS)) for f in frames
  ]
  video = ((np.stack(small) / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)[None]
  expected = model.model.apply({'params': model.params}, jnp.asarray(video))
  np.testing.assert_allclose(model(frames), expected[0], atol=2e-5)


def test_views_of_a_resized_frame():
  frame = np.random.default_rng(3).integers(0, 256, (90, 200, 3), np.uint8)
  clip = Clip(height=32, width=32, interpolation='bilinear')
  whole = np.asarray(Image.fromarray(frame).resize((88, 40), Image.Resampling.BILINEAR))
  crops = views_of(clip, 3, 40)(frame)
  for crop, left in zip(crops, (0, 28, 56), strict=True):
    np.testing.assert_array_equal(crop, whole[4:36, left : left + 32])
  assert ResizedViews(64, 32, 1, 40, 'bilinear').size(90, 200) == (64, 142)  # covers the crop
  assert ResizedViews(32, 128, 1, 40, 'bilinear').size(200, 90) == (284, 128)
  whole = views_of(dataclasses.replace(clip, interpolation='area', resize='whole_frame'), 1, 40)
  assert whole.boxes(90, 200) == [(0, 0, 90, 200)]
  assert isinstance(whole, SpatialCrops)


def test_training_crops_of_whole_frames_have_their_shape():
  region = Scaled(40, 1.0, 1.0)
  crop = RandomCrop(32, 32, region, 0.0, 0.0, False, whole_frame=True)
  ((_, _, height, width),) = crop.boxes(90, 200)
  assert (height, width) == (72, 160)  # 32 / 40 of each side
  assert crop(np.zeros((90, 200, 3), np.uint8)).shape == (32, 32, 3)


def test_contradictions_are_one_line(tmp_path):
  model = pretrained(sees={'resize': 'whole_frame'})
  assert (make_protocol(model.source).temporal_views, make_protocol(model.source).views) == (4, 4)
  with pytest.raises(ConfigError, match='all 3 crops would be the same, so give 4x1'):
    make_protocol(model.source, 4, 3)
  facts = CheckpointFacts(stride=2, sampling='whole_video')
  with pytest.raises(CheckpointError, match="stride=2 contradicts sampling='whole_video'"):
    load_source(ROOT / 'tests/reference/huggingface/vivit', facts)
  export.write(model.source, tmp_path / 'x')
  with pytest.raises(CheckpointError, match="sampling is 'stride' in the file, but you gave"):
    load_source(tmp_path / 'x', CheckpointFacts(sampling='whole_video'))
  found = load_source(
    ROOT / 'tests/reference/huggingface/vivit', CheckpointFacts(sampling='whole_video')
  )
  assert found.preprocessing.sampling == 'whole_video'
