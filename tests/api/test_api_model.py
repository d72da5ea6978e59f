# SPDX-License-Identifier: Apache-2.0
"""The Python API on a tiny trained model: what the commands compute, for files and for frames."""

import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import av
import numpy as np
import pytest

import vivit_jax as vivit
from golden import make
from vivit_jax.errors import UserError
from vivit_jax.inference.explain import Explainer
from vivit_jax.inference.predict import predict
from vivit_jax.inference.timeline import Timeliner
from vivit_jax.weights.pretrained import load_quietly

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / 'tests' / 'golden'
VIDEO = GOLDEN / 'digit.mp4'


@pytest.fixture(scope='module')
def model(compiled_once):
  return vivit.load(GOLDEN / make.CHECKPOINT)


@pytest.fixture(scope='module')
def pretrained():
  return load_quietly(GOLDEN / make.CHECKPOINT)


@pytest.fixture(scope='module')
def frames():
  with av.open(str(VIDEO)) as container:
    return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def test_predict_answers_as_the_command_does(model, pretrained, frames, tmp_path):
  (expected,) = predict(pretrained, [VIDEO], top=3)
  found = model.predict(str(VIDEO), top=3)
  assert found == expected.labels
  assert found[0][0] in model.labels
  # Frames are resized as RGB, files before they are RGB.
  of_frames = dict(model.predict(frames, top=len(model.labels)))
  for label, probability in found:
    assert of_frames[label] == pytest.approx(probability, abs=0.02)
  (tmp_path / 'a.mp4').write_bytes(VIDEO.read_bytes())
  (tmp_path / 'b.mp4').write_bytes(b'no video')
  for several in (tmp_path, [tmp_path], [tmp_path / 'a.mp4', tmp_path / 'b.mp4']):
    good, bad = model.predict(several, top=3)
    assert good.labels == found
    assert bad.labels == []
    assert bad.error
  with pytest.raises(UserError, match=r'b\.mp4: .*'):
    model.predict(tmp_path / 'b.mp4')


def test_predict_takes_the_views_of_the_checkpoint(frames):
  # Its views are whole frames, of which 4 x 3 would be refused.
  model = vivit.load(ROOT / 'tests/reference/huggingface/videoprism_classifier')
  assert len(model.predict(frames, top=3)) == 3


def test_features_have_the_shape_of_their_level(model, frames):
  clip = model.features(VIDEO)
  by_frame = model.features(VIDEO, level='frames')
  tokens = model.features(VIDEO, level='tokens')
  (d,), (t, _) = clip.values.shape, by_frame.values.shape
  assert tokens.values.shape[::2] == (t, d)
  assert clip.seconds.shape == (2,)
  assert by_frame.seconds.shape == tokens.seconds.shape == (t, 2)
  assert by_frame.seconds.min() == clip.seconds[0]
  whole = model.features(VIDEO, level='frames', whole=True)
  assert whole.values.shape[0] == whole.seconds.shape[0]
  assert whole.values.shape[0] % t == 0
  faster, slower = (model.features(frames, fps=fps) for fps in (20.0, 10.0))
  np.testing.assert_array_equal(faster.values, slower.values)
  np.testing.assert_allclose(2 * faster.seconds, slower.seconds)
  assert repr(clip).startswith(f'Features([{d}], ')


def test_attention_and_timeline_are_those_of_the_commands(model, pretrained, frames):
  found, expected = model.attention(VIDEO), Explainer(pretrained).explain(VIDEO)
  np.testing.assert_array_equal(found.grid, expected.grid)
  assert found.map.shape == (len(found.grid), found.grid[0].size)
  assert found.overlay.shape[0] == len(found.frames)
  assert found.png() == found._repr_png_() == expected.png()
  label = model.labels[0]
  assert model.attention(frames, label=label).of == label
  timeline, run = model.timeline(VIDEO), Timeliner(pretrained).run(VIDEO)
  np.testing.assert_array_equal(timeline.seconds, run.seconds)
  ((head, shares),) = timeline.probabilities.items()
  assert shares.shape == (len(run.logits), len(timeline.labels[head]))
  assert {segment.label for segment in timeline.segments} <= set(model.labels)
  assert model.timeline(frames, fps=10.0).duration == pytest.approx(len(frames) / 10)


def test_a_model_shows_itself_in_one_short_line(model):
  assert repr(model).startswith('Model(')
  assert len(repr(model)) < 400
  assert '\n' not in repr(model)


@pytest.mark.parametrize(
  'ask, said',
  [
    (lambda model: model.predict(np.zeros((8, 8, 3), np.uint8)), r'uint8 \[8, 8, 3\]: give RGB'),
    (lambda model: model.predict('no.mp4'), 'no.mp4 does not exist'),
    (lambda model: model.predict(VIDEO, views=(0, 1)), 'views=0x1'),
    (lambda model: model.features(VIDEO, hop=1.0), 'give whole=True too'),
    (lambda model: model.features(GOLDEN), 'is not one video'),
    (lambda model: model.features(np.zeros((9, 8, 8, 3), np.uint8), fps=0.0), 'fps=0.0 is not a'),
    (lambda model: model.attention(VIDEO, label='lft'), 'is not one of the'),
    (lambda model: vivit.load('no/run'), 'no/run'),
  ],
)
def test_a_mistake_is_one_line(model, ask, said):
  with pytest.raises(vivit.UserError, match=said) as caught:
    ask(model)
  assert '\n' not in str(caught.value)


def test_importing_is_light_and_complete():
  program = """
import sys
import vivit_jax
heavy = {'jax', 'numpy', 'av', 'grain', 'ml_collections', 'flax'} & set(sys.modules)
assert not heavy, heavy
import vivit_jax.train.losses
assert callable(vivit_jax.train) and vivit_jax.train.losses
assert set(vivit_jax.__all__) <= set(dir(vivit_jax))

import numpy as np  # what type checkers see, where types are not checked

model = vivit_jax.load(sys.argv[1])
for mistake, said in (
  (lambda: model.predict(np.zeros((4, 8, 8, 3))), 'frames are float64 [4, 8, 8, 3]'),
  (lambda: model.features(sys.argv[2], level='clips'), "'clips' is not a choice; did you mean 'c"),
  (lambda: model.export('x', to='torch'), "to='torch' is not a choice"),
  (lambda: vivit_jax.train(3, 'run'), 'config is int: give the name of a recipe'),
):
  try:
    mistake()
  except vivit_jax.UserError as error:
    assert said in str(error), error
  else:
    raise AssertionError(said)
"""
  subprocess.run(
    [sys.executable, '-c', program, str(GOLDEN / make.CHECKPOINT), str(VIDEO)],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    check=True,
  )
  with pytest.raises(AttributeError, match="no attribute 'laod'"):
    vivit.laod  # noqa: B018


def test_nothing_public_is_typed_any():
  for name in vivit.__all__:
    thing = vivit.train if name == 'train' else getattr(vivit, name)
    members = [thing] if not inspect.isclass(thing) else [
      member for key, member in vars(thing).items() if not key.startswith('_')
    ]  # fmt: skip
    for member in members:
      function = getattr(member, 'fget', member)
      if inspect.isfunction(function):
        signature = inspect.signature(function)
        hints = [p.annotation for p in signature.parameters.values() if p.name != 'self']
        for hint in [*hints, signature.return_annotation]:
          assert hint not in (typing.Any, inspect.Parameter.empty), f'{name}: {member}'
    for hint in getattr(thing, '__annotations__', {}).values():
      assert hint is not typing.Any
