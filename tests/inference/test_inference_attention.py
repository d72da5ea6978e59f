# SPDX-License-Identifier: Apache-2.0
"""Attention maps: equal to the product of whole matrices, of the right tokens, and drawn right."""

import io

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.videos import write_images, write_video
from support.working_models import VARIANTS, pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Task
from vivit_jax.errors import ConfigError
from vivit_jax.inference import attention_maps
from vivit_jax.inference.attention_maps import gradient, rollout, watch
from vivit_jax.inference.explain import Explainer, find_label
from vivit_jax.inference.overlay import as_mp4, overlay
from vivit_jax.inference.stages import embed, encode
from vivit_jax.model.attention import SPACE, TIME
from vivit_jax.model.stages import stages
from vivit_jax.model.vivit import apply


def matrix(config, seen):
  """The whole N x N matrix of one attention over all tokens [T, S] of a clip, mean over heads."""
  x = np.asarray(seen.x[0], np.float64)
  tokens = x.shape[:-1]
  flat = x.reshape(-1, x.shape[-1])
  query, key = (
    np.einsum('nd,dhk->nhk', flat, seen.params[n]['kernel']) + seen.params[n]['bias']
    for n in ('query', 'key')
  )
  scores = np.einsum('qhe,khe->hqk', query, key) / np.sqrt(query.shape[-1])
  place = np.stack(np.unravel_index(np.arange(len(flat)), tokens), axis=-1)
  groups = np.split(scores, len(seen.axes))
  parts = []
  for axis, group in zip(seen.axes, groups, strict=True):
    if len(tokens) == 2:
      fixed = 1 if axis == TIME else 0
      same = place[:, None, fixed] == place[None, :, fixed]
      group = np.where(same, group, -np.inf)
    weights = np.exp(group - group.max(axis=-1, keepdims=True))
    parts.append((weights / weights.sum(axis=-1, keepdims=True)).mean(axis=0))
  return np.mean(parts, axis=0)


def dense_rollout(config, seen):
  """The product of all layers' (1 + A) / 2, last layer first."""
  product = None
  for one in seen:
    layer = matrix(config, one)
    layer = 0.5 * np.eye(len(layer)) + 0.5 * layer
    product = layer if product is None else layer @ product
  return product


def compiled(function, model, *values):
  """The result of function(model, params, *values), as one program."""
  return jax.jit(lambda params, *x: function(model.model, params, *x))(model.params, *values)


def watched(model, stage, x):
  """What `watch` returns, from one program."""
  axes = []

  def run(vivit, params, x):
    pooled, seen = watch(vivit, params, stage, x)
    axes.extend(one.axes for one in seen)
    return pooled, [(one.params, one.x) for one in seen]

  pooled, seen = compiled(run, model, x)
  return pooled, [attention_maps.Seen(a, *one) for a, one in zip(axes, seen, strict=True)]


def expected_map(model, video):
  """The map by whole matrices, frame by frame where frames do not see each other."""
  config, cls = model.model.config, model.model.config.pooling == 'cls'
  x = compiled(embed, model, video)
  t, s = x.shape[1:3]
  chain = stages(config)
  pooled, seen = watched(model, chain[0], x)
  if config.attention == 'factorised_encoder':
    spatial = []
    for k in range(t):
      own = [attention_maps.Seen(o.axes, o.params, o.x[:, k]) for o in seen]
      product = dense_rollout(config, own)
      spatial.append(product[0, 1:] if cls else product.mean(axis=0))
    if len(chain) == 1:
      time = np.full(t, 1 / t)
    else:
      _, seen = watched(model, chain[1], pooled)
      product = dense_rollout(config, seen)
      time = product[0, 1:] if cls else product.mean(axis=0)
    grid = time[:, None] * np.stack(spatial)
  else:
    product = dense_rollout(config, seen)
    if config.attention == 'spatio_temporal':
      row = product[0, 1:] if cls else product.mean(axis=0)
      grid = row.reshape(t, s)
    else:
      whole = s + cls
      row = product[::whole].mean(axis=0) if cls else product.mean(axis=0)
      grid = row.reshape(t, whole)[:, cls:]
  return grid / grid.sum()


@pytest.fixture
def video(rng):
  return jnp.asarray(rng.normal(size=(1, 8, 32, 48, 3)), jnp.float32)


@pytest.mark.parametrize('attention, pooling', VARIANTS)
def test_rollout_is_the_product_of_whole_matrices(attention, pooling, video):
  model = pretrained(attention, pooling=pooling, seed=3)
  found = compiled(rollout, model, video)
  expected = expected_map(model, video)
  assert np.ptp(expected) > 0.01 * expected.mean()  # the model looks at some more than at others
  np.testing.assert_allclose(found[0], expected, atol=2e-7)


def test_rollout_of_the_average_over_time_and_of_time_first(video):
  for changes in ({'temporal_layers': 0}, {'attention': 'factorised_self_attention',
                                           'order': 'time_space', 'pooling': 'mean'}):  # fmt: skip
    model = pretrained(**changes)
    found = compiled(rollout, model, video)
    np.testing.assert_allclose(found[0], expected_map(model, video), atol=2e-7)


def test_rows_at_a_time_and_scan_and_remat_change_nothing(video, monkeypatch):
  model = pretrained('spatio_temporal')
  expected = compiled(rollout, model, video)
  other = pretrained('spatio_temporal', scan=True, remat='block')
  monkeypatch.setattr(attention_maps, 'ROWS', 7)  # 25 tokens: the last block is not full
  found = compiled(rollout, other, video)
  np.testing.assert_allclose(found, expected, atol=1e-7)


def test_watching_changes_nothing(video):
  model = pretrained('factorised_self_attention')
  x = embed(model.model, model.params, video)
  (stage,) = stages(model.model.config)
  pooled, seen = watch(model.model, model.params, stage, x)
  np.testing.assert_array_equal(pooled, encode(model.model, model.params, stage, x))
  assert [one.axes for one in seen] == [(SPACE,), (TIME,)] * 2


@pytest.mark.parametrize('attention', ['factorised_encoder', 'spatio_temporal'])
def test_gradient_is_that_of_the_logit(attention, video):
  model = pretrained(attention)
  found = compiled(lambda *x: gradient(*x, 2), model, video)
  np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-5)
  grad = jax.jit(jax.grad(lambda x: model.model.apply({'params': model.params}, x)[0, 2]))(video)
  one = jnp.abs(grad)[0, 2:4, 16:32, 32:48].sum() / jnp.abs(grad).sum()  # time 1, row 1, column 2
  np.testing.assert_allclose(found[0, 1, 5], one, rtol=1e-4)


def test_gradient_of_frames_that_are_not_sampled_is_left_out(video):
  model = pretrained(tokenizer='uniform_frame_sampling', sampled_frames=4, patch=(1, 16, 16))
  assert compiled(lambda *x: gradient(*x, 0), model, video).shape == (1, 4, 6)
  assert compiled(rollout, model, video).shape == (1, 4, 6)


def test_one_scale_for_the_clip():
  frames = np.zeros((4, 32, 48, 3), np.uint8)
  grid = np.zeros((2, 2, 3), np.float32)
  grid[1, 0, 2] = 1.0
  shown = overlay(frames, grid)
  assert shown.shape == (4, 224, 336, 3)
  assert shown[:2].max() < 10  # of the same color as what is not looked at
  assert shown[2:, :50, -50:].mean() > 60 > 30 > shown[2:, -50:, :50].mean()
  assert overlay(frames, np.ones((2, 2, 3), np.float32)).shape == shown.shape


def test_the_video_lasts_as_long_as_the_clip(rng):
  data = as_mp4(rng.integers(0, 255, (8, 64, 64, 3), np.uint8), 0.2)
  with av.open(io.BytesIO(data)) as container:
    times = [float(frame.time) for frame in container.decode(video=0)]
  np.testing.assert_allclose(times, 0.2 * np.arange(8), atol=1e-3)


def test_the_command_writes_video_picture_and_map(tmp_path, rng, capsys):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  images = rng.integers(0, 255, (40, 48, 64, 3), np.uint8)
  video = write_images(tmp_path / 'x.mp4', images)
  out = tmp_path / 'out'
  assert main(['explain', str(checkpoint), str(video), f'--output={out}', '--class=sing']) == 0
  text = capsys.readouterr().out
  assert 'absolute gradient of sing of 1.20 s to 2.70 s' in text
  assert sorted(file.name for file in out.iterdir()) == ['x.mp4', 'x.npy', 'x.png']
  assert cv2.imread(str(out / 'x.png')).shape == (448, 336 * 8, 3)
  np.testing.assert_allclose(np.load(out / 'x.npy').sum(), 1.0, rtol=1e-5)
  assert np.load(out / 'x.npy').shape == (4, 2, 3)
  assert main(['explain', str(checkpoint), str(video), f'--output={out}']) == 2
  assert 'exists' in capsys.readouterr().err


def test_an_explanation_that_cannot_be_is_one_line(tmp_path, capsys):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  video = write_video(tmp_path / 'x.mp4')
  for arguments, reason in (
    ([str(video), '--class=sin'], "--class=sin is not one of the 6 classes; did you mean 'sing'?"),
    ([str(tmp_path / 'none.mp4')], 'missing'),
  ):
    command = ['explain', str(checkpoint), *arguments, f'--output={tmp_path / "out"}']
    assert main(command) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
  assert not (tmp_path / 'out').exists()
  two = pretrained(task=Task(heads=('verb', 'noun'), classes=(2, 2)))
  with pytest.raises(ConfigError, match='give --class=HEAD:class 1'):
    find_label(two, 'class 1')
  assert find_label(two, 'noun:class 1') == 3


def test_an_explanation_names_the_labels_of_its_clip(tmp_path, rng):
  video = write_images(tmp_path / 'x.mp4', rng.integers(0, 255, (40, 48, 64, 3), np.uint8))
  model = pretrained('spatio_temporal')
  found = Explainer(model).explain(video)
  values = jnp.asarray(found.frames[None] / 127.5 - 1, jnp.float32)
  logits = compiled(apply, model, values)
  best = np.asarray(jax.nn.softmax(logits[0]))
  assert found.heads['label'][0][0] == model.labels[int(best.argmax())]
  np.testing.assert_allclose(found.heads['label'][0][1], best.max(), rtol=1e-4)
  np.testing.assert_allclose(
    found.grid.reshape(-1), compiled(rollout, model, values)[0].reshape(-1), atol=1e-6
  )
