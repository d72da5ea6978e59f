# SPDX-License-Identifier: Apache-2.0
"""Video models start from image and video models as the paper says, and as Scenic does if asked."""

import dataclasses
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.ndimage

from vivit_jax.config.model import ON_A_GRID
from vivit_jax.config.schema import Attention, Init, Model, Task
from vivit_jax.errors import CheckpointError
from vivit_jax.weights import rename
from vivit_jax.weights.initialize import SCENIC, initialize
from vivit_jax.weights.load import load_source
from vivit_jax.weights.names import SCENIC as SCENIC_NAMES
from vivit_jax.weights.origins import format_table
from vivit_jax.weights.positions import linear_weights, resize_positions
from vivit_jax.weights.source import Preprocessing, Source, shapes

REFERENCE = Path(__file__).parent.parent / 'reference'
SMALL = Model(layers=3, width=48, mlp_dim=96, heads=4, patch=(2, 8, 8), temporal_layers=2)
ATTENTIONS = typing.get_args(Attention)
UNIFORM = {'patch': (1, 8, 8), 'tokenizer': 'uniform_frame_sampling', 'sampled_frames': 4}
CASES = {
  'factorised_dot_product_central_tile': {'attention': 'factorised_dot_product'},
  'factorised_encoder_central': {'attention': 'factorised_encoder'},
  'factorised_self_attention_central_tile': {'attention': 'factorised_self_attention'},
  'spatio_temporal_average_tile': {'tubelet_init': 'inflation'},
  'spatio_temporal_central_resize_tile_2x': {},
  'spatio_temporal_central_tile': {},
  'spatio_temporal_uniform_tile': UNIFORM,
}


def of(**settings):
  """A small model; pooling follows from its attention."""
  model = dataclasses.replace(SMALL, **settings)
  on_grid = model.attention in ON_A_GRID
  return dataclasses.replace(model, pooling='mean') if on_grid else model


def random(model, grid, classes, seed=0):
  draw = np.random.default_rng(seed).normal
  return {n: draw(size=s).astype(np.float32) for n, s in shapes(model, grid, classes).items()}


def video_source(model, grid, classes, seed=1):
  t, h, w = model.patch
  return Source(
    Path('video'), 'test', 'video', random(model, grid, classes, seed), model, grid[0] * t,
    grid[1] * h, grid[2] * w, Task(classes=(classes,)), None, Preprocessing(), {},
  )  # fmt: skip


@pytest.fixture(scope='module')
def image():
  return load_source(REFERENCE / 'augreg/vit.npz')


def origins(rows):
  return {row.name: row.origin for row in rows if row.origin != 'left over'}


@pytest.mark.parametrize('name', CASES)
def test_equals_scenic_under_its_options(name, image):
  file = REFERENCE / f'vit_init/{name}.npz'
  with np.load(file) as arrays:
    theirs = dict(arrays)
  rules, _ = rename.plan(file, theirs, SCENIC_NAMES)
  expected = rename.apply(file, theirs, rules, heads=1)
  model, grid = of(**CASES[name]), (4, 8, 8) if name.endswith('2x') else (4, 4, 4)
  fresh = random(model, grid, classes=5)
  params, rows = initialize(fresh, model, grid, image, SCENIC)
  difference = max(np.max(np.abs(params[n] - expected[n])) for n in expected)
  print(f'{name}: largest difference {difference:.1e}')
  assert difference <= 1e-6
  for name, origin in origins(rows).items():
    assert (origin == 'fresh') == (name not in expected)
    assert name in expected or np.array_equal(params[name], fresh[name])


def test_cases_are_all_that_initialization_has_files_of():
  assert {path.stem for path in (REFERENCE / 'vit_init').iterdir()} == set(CASES)


def test_factorised_encoder_keeps_cls_and_scenic_does_not(image):
  model = of(attention='factorised_encoder')
  fresh = random(model, (4, 4, 4), 5)
  ours, _ = initialize(fresh, model, (4, 4, 4), image)
  scenic, rows = initialize(fresh, model, (4, 4, 4), image, SCENIC)
  assert np.array_equal(ours['spatial/cls'], image.params['spacetime/cls'])
  assert np.array_equal(scenic['spatial/cls'], fresh['spatial/cls'])
  left = {row.name for row in rows if row.origin == 'left over'}
  assert left == {'spacetime/cls', 'head/kernel', 'head/bias'}


def test_temporal_attention_adds_nothing_at_first(image):
  model = of(attention='factorised_self_attention')
  fresh = random(model, (4, 4, 4), 5)
  params, _ = initialize(fresh, model, (4, 4, 4), image)
  for layer in range(3):
    block = f'spacetime/block_{layer}'
    assert not params[f'{block}/attention_time/out/kernel'].any()
    assert not params[f'{block}/attention_time/out/bias'].any()
    name = f'{block}/attention_time/query/kernel'
    assert np.array_equal(params[name], fresh[name])
    assert np.array_equal(
      params[f'{block}/attention_space/query/kernel'],
      image.params[f'{block}/attention/query/kernel'],
    )


@pytest.mark.parametrize('kind', ['central_frame', 'inflation'])
def test_a_still_video_looks_like_its_image(image, kind):
  """Both kinds respond to a constant clip as the 2D patch does to its frame."""
  model = of(tubelet_init=kind, patch=(3, 8, 8))
  params, _ = initialize(random(model, (4, 4, 4), 5), model, (4, 4, 4), image)
  held = image.params['tokenizer/kernel'][0]
  np.testing.assert_allclose(params['tokenizer/kernel'].sum(axis=0), held, atol=1e-7)
  if kind == 'central_frame':
    assert np.array_equal(params['tokenizer/kernel'][1], held)


@pytest.mark.parametrize(
  'old, new',
  [((1, 4, 4), (4, 4, 4)), ((4, 4, 6), (8, 5, 7)), ((9, 7), (3, 14)), ((4,), (7,))],
)
def test_linear_resize_is_that_of_jax(old, new):
  positions = np.random.default_rng(0).normal(size=(np.prod(old), 5)).astype(np.float32)
  found = resize_positions(positions, old, new, 'linear')
  expected = jax.image.resize(positions.reshape(*old, 5), (*new, 5), 'linear')
  np.testing.assert_allclose(found, np.reshape(expected, (-1, 5)), atol=2e-6)


def test_scenic_resize_is_zoom():
  positions = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
  found = resize_positions(positions, (4, 6), (8, 9), 'scenic')
  expected = scipy.ndimage.zoom(positions.reshape(4, 6, 5), (2, 1.5, 1), order=1)
  np.testing.assert_array_equal(found, expected.reshape(-1, 5))


def test_linear_weights_sum_to_one():
  np.testing.assert_allclose(linear_weights(14, 16).sum(axis=1), 1)
  np.testing.assert_array_equal(linear_weights(4, 4), np.eye(4))


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_video_to_video_of_the_same_clip_is_the_identity(attention):
  model = of(attention=attention)
  source = video_source(model, (4, 4, 6), 7)
  params, rows = initialize(random(model, (4, 4, 6), 7), model, (4, 4, 6), source)
  assert all(np.array_equal(params[name], source.params[name]) for name in source.params)
  assert set(origins(rows).values()) == {'taken'}
  assert len(rows) == len(params)


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_video_to_video_of_another_clip_and_other_classes(attention):
  model = of(attention=attention)
  source = video_source(model, (4, 4, 6), 7)
  params, rows = initialize(random(model, (8, 5, 5), 3), model, (8, 5, 5), source)
  changed = {name for name, origin in origins(rows).items() if origin != 'taken'}
  if attention.startswith('factorised_encoder'):
    assert changed == {'spatial/position', 'temporal/position', 'head/kernel', 'head/bias'}
    held, cls = source.params['temporal/position'][0], int(model.pooling == 'cls')
    expected = np.concatenate([held[:cls], linear_weights(4, 8) @ held[cls:]])
    np.testing.assert_allclose(params['temporal/position'][0], expected, atol=1e-6)
  else:
    assert changed == {'spacetime/position', 'head/kernel', 'head/bias'}
  assert format_table(rows).splitlines()[-1].endswith('2 fresh, 2 left over')


@pytest.mark.parametrize('attention', ATTENTIONS)
def test_positions_alone_can_stay_fresh(attention):
  model = of(attention=attention)
  source, own = video_source(model, (4, 4, 6), 7), random(model, (4, 4, 6), 7)
  params, rows = initialize(own, model, (4, 4, 6), source, Init(positions='init'))
  fresh = {name for name, origin in origins(rows).items() if origin == 'fresh'}
  assert fresh == {name for name in own if name.endswith('position')}
  assert fresh
  assert all(np.array_equal(params[name], own[name]) for name in fresh)
  assert all(np.array_equal(params[n], source.params[n]) for n in params.keys() - fresh)


@pytest.mark.parametrize('theirs, ours', [('cls', 'mean'), ('mean', 'cls'), ('mean', 'mean')])
def test_cls_on_either_side(theirs, ours):
  source = video_source(of(pooling=theirs), (4, 4, 4), 7)
  model = of(pooling=ours)
  fresh = random(model, (4, 4, 4), 7)
  params, rows = initialize(fresh, model, (4, 4, 4), source)
  found, held = params['spacetime/position'][0], source.params['spacetime/position'][0]
  assert np.array_equal(found[int(ours == 'cls') :], held[int(theirs == 'cls') :])
  if (theirs, ours) == ('mean', 'cls'):
    assert np.array_equal(found[0], fresh['spacetime/position'][0, 0])
    assert origins(rows)['spacetime/cls'] == 'fresh'


def test_refusals_name_both_sides(image):
  def reason(model, source, grid=(4, 4, 4), options=None):
    with pytest.raises(CheckpointError) as error:
      initialize(random(model, grid, 5), model, grid, source, options)
    return error.value.reason

  assert reason(of(layers=4), image) == 'has layers 3, the model to initialize 4'
  assert reason(of(heads=3), image) == 'has heads 4, the model to initialize 3'
  assert reason(of(patch=(2, 4, 8)), image) == (
    'has patch height and width (8, 8), the model to initialize (4, 8)'
  )
  video = video_source(of(), (4, 4, 4), 7)
  assert reason(of(patch=(4, 8, 8)), video) == (
    'tokenizer/kernel has shape (2, 8, 8, 3, 48), the model to initialize (4, 8, 8, 3, 48): only '
    '2D patches can be extended in time'
  )
  assert reason(of(), video, options=Init(head='load')) == (
    'head/bias has shape (7,), the model to initialize (5,)'
  )
  assert reason(of(attention='factorised_encoder'), video) == (
    'is spatio_temporal, which cannot initialize factorised_encoder, since only one of them has '
    'two transformers; start from an image model'
  )


def test_table_is_short_and_complete(image):
  model = of(attention='factorised_self_attention')
  _, rows = initialize(random(model, (4, 8, 8), 7), model, (4, 8, 8), image)
  assert format_table(rows) == '\n'.join([
    "fresh     head (the source's is of images)",
    'taken     spacetime/block_0..2: attention_norm_space, attention_space, mlp, mlp_norm from '
    'spacetime/block_0..2: attention_norm, attention, mlp, mlp_norm',
    'fresh     spacetime/block_0..2: attention_norm_time, attention_time (the source has no '
    'temporal attention)',
    'fresh     spacetime/block_0..2: attention_time (zero projection)',
    'taken     spacetime/norm',
    'resized   spacetime/position (1, 17, 48) -> (1, 256, 48) (1x4x4 -> 4x8x8 tokens, '
    "cls's position dropped)",
    'taken     tokenizer/bias',
    'resized   tokenizer/kernel (1, 8, 8, 3, 48) -> (2, 8, 8, 3, 48) (central_frame)',
    'left over spacetime/cls; nearest: spacetime/position',
    'left over head; nearest: head',
    '51 taken, 2 resized, 32 fresh, 3 left over',
  ])  # fmt: skip
