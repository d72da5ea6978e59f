# SPDX-License-Identifier: Apache-2.0
"""Raw frames of any size give what `predict` gives; a model refuses what it cannot take."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import make
from vivit_jax.config.schema import Model
from vivit_jax.data.video import frames as display
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.errors import CheckpointError, ConfigError, InputError, UserError
from vivit_jax.inference.predict import make_protocol, predict
from vivit_jax.model.vivit import ViViT, apply
from vivit_jax.weights.pretrained import load_pretrained
from vivit_jax.weights.source import Preprocessing

GOLDEN = Path(make.__file__).parent
CLIP = GOLDEN / make.CLIP


@pytest.fixture(scope='module')
def pretrained():
  return load_pretrained(GOLDEN / make.CHECKPOINT)


@pytest.fixture(scope='module')
def frames(pretrained):
  """The frames of the central clip, as they are in the file."""
  with VideoReader(str(CLIP)) as reader:
    return reader.read(evaluation_clips(reader.times, make_protocol(pretrained.source).clip, 1)[0])


def test_raw_frames_give_what_predict_gives(pretrained, frames, monkeypatch):
  # Crops are otherwise cut before colors are converted, which rounds differently.
  monkeypatch.setattr(display, 'can_cut', lambda *_: False)
  assert frames.shape == (8, 48, 56, 3)
  logits = pretrained(frames)
  assert (logits.shape, logits.dtype) == ((8,), np.float32)
  shares = np.asarray(jax.nn.softmax(logits))
  (found,) = predict(pretrained, [CLIP], temporal_views=1, spatial_views=1, top=8)
  expected = dict(found.heads['label'])
  np.testing.assert_allclose(shares, [expected[name] for name in pretrained.labels], atol=1e-4)
  assert max(expected.values()) > 0.5

  both = pretrained(np.stack([frames, frames[::-1]]))
  assert both.shape == (2, 8)
  np.testing.assert_allclose(both[0], logits, rtol=1e-4, atol=1e-4)
  assert np.abs(both[1] - logits).max() > 0.01


def test_raw_frames_take_the_weights_range_and_channel_order(pretrained, frames):
  wants = dataclasses.replace(
    pretrained.preprocessing, mean=(0.0, 0.0, 0.5), std=(1.0, 0.5, 0.5), channels='bgr'
  )
  source = dataclasses.replace(pretrained.source, preprocessing=wants)
  other = dataclasses.replace(pretrained, source=source)
  plain = frames[:, 8:40, 12:44]
  exact = dataclasses.replace(
    other,
    source=dataclasses.replace(source, preprocessing=dataclasses.replace(wants, short_side=32)),
  )
  values = plain[..., ::-1] / 255.0 * np.array([1.0, 2.0, 2.0]) + np.array([0.0, 0.0, -1.0])
  expected = other.model.apply({'params': other.params}, jnp.float32(values[None]))[0]
  np.testing.assert_allclose(exact(plain), expected, rtol=1e-4, atol=1e-4)
  assert np.abs(exact(plain) - pretrained(plain)).max() > 0.1


@pytest.mark.parametrize(
  'wrong, message',
  [
    (np.zeros((8, 48, 56, 3), np.float32), r'float32 \[8, 48, 56, 3\]: give uint8 RGB'),
    (np.zeros((8, 48, 56), np.uint8), r'uint8 \[8, 48, 56\]: give \[F, H, W, 3\] or'),
    (np.zeros((8, 3, 48, 56), np.uint8), r'uint8 \[8, 3, 48, 56\]: give \[F, H, W, 3\] or'),
    (np.zeros((8, 0, 56, 3), np.uint8), r'give \[F, H, W, 3\] or'),
    (np.zeros((9, 48, 56, 3), np.uint8), 'these weights need clips of 8 frames'),
  ],
)
def test_other_frames_are_refused_in_one_line(pretrained, wrong, message):
  with pytest.raises(InputError, match=message) as info:
    pretrained(wrong)
  assert '\n' not in str(info.value)


def test_weights_that_cannot_predict_say_so(pretrained, frames):
  for change, message in (
    ({'preprocessing': Preprocessing(None, None)}, 'value range'),
    ({'task': None}, 'no classifier'),
  ):
    other = dataclasses.replace(pretrained, source=dataclasses.replace(pretrained.source, **change))
    with pytest.raises(CheckpointError, match=message):
      other(frames)


@pytest.mark.parametrize(
  'shape, dtype, message',
  [
    ((1, 8, 32, 32, 3), 'uint8', r'uint8 \[1, 8, 32, 32, 3\]: .*\[-1, 1\]; give raw frames'),
    ((1, 8, 32, 32, 3), 'int32', 'int32'),
    ((8, 32, 32, 3), 'float32', r'takes \[B, F, H, W, 3\]'),
    ((1, 8, 32, 32, 1), 'float32', r'takes \[B, F, H, W, 3\]'),
    ((1, 8, 30, 32, 3), 'float32', r'tubelets of \[2, 8, 8\], which must divide'),
    ((1, 7, 32, 32, 3), 'float32', r'tubelets of \[2, 8, 8\], which must divide'),
    (
      (1, 8, 40, 40, 3),
      'float32',
      r'the spatial transformer 26 tokens, but its positions are for 17',
    ),
    (
      (1, 4, 32, 32, 3),
      'float32',
      r'the temporal transformer 3 tokens, but its positions are for 5',
    ),
  ],
)
def test_the_model_itself_refuses_at_trace_time(pretrained, shape, dtype, message):
  video = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
  for call in (
    lambda params, video: pretrained.model.apply({'params': params}, video),
    lambda params, video: apply(pretrained.model, params, video),
  ):
    with pytest.raises(InputError, match=message) as info:
      jax.eval_shape(call, pretrained.params, video)  # computes nothing
    assert '\n' not in str(info.value)
    assert isinstance(info.value, UserError | ValueError)
  assert not issubclass(InputError, ConfigError)


def test_uniform_sampling_takes_longer_clips_but_not_shorter():
  config = Model(
    layers=1, width=8, mlp_dim=8, heads=1, tokenizer='uniform_frame_sampling', patch=(1, 8, 8),
    sampled_frames=4,
  )  # fmt: skip
  model = ViViT(config, 3)
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 3)))
  assert model.apply(params, jnp.zeros((1, 9, 16, 16, 3))).shape == (1, 3)
  with pytest.raises(InputError, match='samples 4 frames of a clip'):
    model.apply(params, jnp.zeros((1, 3, 16, 16, 3)))


def test_a_loaded_model_is_shown_in_one_line(pretrained):
  text = repr(pretrained)
  assert text.count('\n') == 0
  assert len(text) < 300
  parameters = sum(leaf.size for leaf in jax.tree.leaves(pretrained.params))
  for part in (
    make.CHECKPOINT,
    'golden',
    'factorised_encoder',
    '8 frames of 32x32',
    '8 classes',
    f'{parameters:,} parameters',
  ):
    assert part in text
  assert len(repr(pretrained.source)) < 2000
