# SPDX-License-Identifier: Apache-2.0
"""Predictions from real files: right pixels, right frames, right names, and errors in their row."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from support.videos import write_video
from support.views import read_views
from vivit_jax.config.clip import of_range
from vivit_jax.config.schema import Model, Task
from vivit_jax.data.augmentation.crop import SpatialCrops
from vivit_jax.data.index.videos import collect_videos
from vivit_jax.data.manifest import Video
from vivit_jax.errors import CheckpointError, ConfigError, DataError
from vivit_jax.evaluate.predictions import as_json, as_table
from vivit_jax.inference.predict import make_protocol, predict, run
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights import export
from vivit_jax.weights import pretrained as module
from vivit_jax.weights.pretrained import load_pretrained
from vivit_jax.weights.source import Preprocessing, Source, shapes

MODEL = Model(
  attention='factorised_encoder', layers=1, width=16, mlp_dim=32, heads=2, patch=(2, 16, 16),
  temporal_layers=1,
)  # fmt: skip


def write_checkpoint(file: Path, rng, task: Task, labels=None, **preprocessing) -> Path:
  """Writes random weights that see clips of four frames of 32 x 32."""
  grid = (2, 2, 2)
  expected = shapes(MODEL, grid, sum(task.classes))
  params = {n: rng.normal(size=shape).astype(np.float32) for n, shape in expected.items()}
  source = Source(
    Path('made here'), 'test', 'video', params, MODEL, 4, 32, 32, task, labels,
    Preprocessing(**preprocessing), {},
  )  # fmt: skip
  export.write(source, file)
  return file


@pytest.fixture
def checkpoint(tmp_path, rng):
  labels = ('jump', 'run', 'swim')
  return write_checkpoint(tmp_path / 'x.safetensors', rng, Task(classes=(3,)), labels, stride=3)


def logits_of(pretrained, video, low, high, flip=False):
  """The mean over views, written down once more."""
  views, _ = read_views(pretrained.source, video, 2, 3)
  views = views[..., ::-1] if flip else views
  values = (views / 255.0 * (np.array(high) - low) + low).astype(np.float32)
  return np.asarray(
    pretrained.model.apply({'params': pretrained.params}, jnp.asarray(values))
  ).mean(axis=0)


def test_probabilities_are_the_softmax_of_the_mean_over_views(tmp_path, checkpoint):
  file = write_video(tmp_path / 'x.mp4', 40)
  pretrained = load_pretrained(checkpoint)
  (found,) = predict(pretrained, [file], temporal_views=2, spatial_views=3)
  logits = logits_of(pretrained, Video(str(file), None, None, ()), -1.0, 1.0)
  expected = np.asarray(jax.nn.softmax(logits))
  assert (found.path, found.frames, found.used, found.error) == (str(file), 40, 8, None)
  np.testing.assert_allclose(found.seconds, 3.9)
  names, shares = zip(*found.heads['label'], strict=True)
  assert names == tuple(np.array(['jump', 'run', 'swim'])[np.argsort(-expected)])
  np.testing.assert_allclose(shares, np.sort(expected)[::-1], rtol=1e-4)


@pytest.mark.parametrize('batch_size', [1, 4, 7, 100])
def test_any_batch_size_gives_the_same_in_the_videos_order(tmp_path, checkpoint, batch_size):
  broken = tmp_path / 'broken.mp4'
  broken.write_bytes(b'no video')
  files = [write_video(tmp_path / f'{n}.mp4', n) for n in (5, 12, 30)]
  files = [broken, *files[:2], broken, files[2], broken]
  pretrained = load_pretrained(checkpoint)
  found = list(predict(pretrained, files, temporal_views=2, batch_size=batch_size))
  assert [p.path for p in found] == [str(file) for file in files]
  assert [bool(p.error) for p in found] == [True, False, False, True, False, True]
  assert [p.frames for p in found] == [0, 5, 12, 0, 30, 0]
  for one in (1, 4):
    (alone,) = predict(pretrained, [files[one]], temporal_views=2, batch_size=6)
    assert [n for n, _ in alone.heads['label']] == [n for n, _ in found[one].heads['label']]
    shares = [[s for _, s in p.heads['label']] for p in (alone, found[one])]
    np.testing.assert_allclose(*shares, rtol=1e-4)


def test_one_program_is_compiled_for_all_videos(tmp_path, checkpoint):
  files = [write_video(tmp_path / f'{n}.mp4', n, 48 + 16 * n, 64) for n in range(2, 6)]
  with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
    traces = []
    real = module.apply
    patch.setattr(module, 'apply', lambda *a: traces.append(a[2].shape) or real(*a))
    assert len(list(predict(load_pretrained(checkpoint), files, batch_size=5))) == 4
  assert traces == [(5, 4, 32, 32, 3)]


def test_value_range_and_channel_order_are_those_of_the_weights(tmp_path, rng):
  low, high = (0.0, -1.0, -2.0), (1.0, 3.0, 2.5)
  mean, std = of_range(low, high)
  file = write_checkpoint(
    tmp_path / 'x.safetensors', rng, Task(classes=(3,)), mean=mean, std=std, channels='bgr'
  )
  pixels = np.zeros((1, 1, 1, 2, 3), np.uint8)
  pixels[..., 1, :] = 255
  pixels[..., 0, 0] = 51  # a little red, which comes last
  values = np.asarray(normalize_pixels(jnp.asarray(pixels), mean, std, 'bgr'))
  np.testing.assert_allclose(values[0, 0, 0], [(0.0, -1.0, -2.0 + 4.5 / 5), high], rtol=1e-6)
  assert values.dtype == np.float32
  video = write_video(tmp_path / 'x.mp4', 20)
  pretrained = load_pretrained(file)
  (found,) = predict(pretrained, [video], temporal_views=2)
  logits = logits_of(pretrained, Video(str(video), None, None, ()), low, high, flip=True)
  expected = np.asarray(jax.nn.softmax(logits))
  names = tuple(f'class {i}' for i in np.argsort(-expected))
  assert tuple(name for name, _ in found.heads['label']) == names


def test_each_head_has_a_softmax_and_each_tag_a_sigmoid(tmp_path, rng):
  video = write_video(tmp_path / 'x.mp4', 20)
  task = Task(heads=('verb', 'noun'), classes=(3, 4))
  labels = ('cut', 'wash', 'open', 'egg', 'cup', 'pan', 'tap')
  pretrained = load_pretrained(write_checkpoint(tmp_path / 'a.safetensors', rng, task, labels))
  (found,) = predict(pretrained, [video], top=10)
  assert {n for n, _ in found.heads['verb']} == set(labels[:3])
  assert {n for n, _ in found.heads['noun']} == set(labels[3:])
  for best in found.heads.values():
    np.testing.assert_allclose(sum(share for _, share in best), 1.0)
  protocol = make_protocol(pretrained.source)
  assert ' verb ' in as_table([found], protocol)
  assert ' noun ' in as_table([found], protocol)

  task = Task(kind='multi_label', heads=('tags',), classes=(6,))
  pretrained = load_pretrained(write_checkpoint(tmp_path / 'b.safetensors', rng, task))
  (found,) = predict(pretrained, [video], top=4, temporal_views=2)
  logits = logits_of(pretrained, Video(str(video), None, None, ()), -1.0, 1.0)
  expected = np.sort(np.asarray(jax.nn.sigmoid(logits)))[::-1][:4]
  np.testing.assert_allclose([s for _, s in found.heads['tags']], expected, rtol=1e-4)


def test_stride_is_given_or_the_checkpoints_or_assumed_aloud(checkpoint):
  said = load_pretrained(checkpoint).source
  silent = dataclasses.replace(said, preprocessing=Preprocessing())
  for source, stride, expected in (
    (said, None, (3, 'checkpoint')),
    (said, 5, (5, 'argument')),
    (silent, None, (2, 'assumed')),
  ):
    protocol = make_protocol(source, stride=stride)
    assert (protocol.stride, protocol.stride_from) == expected
    assert ('the checkpoint does not say' in str(protocol)) == (expected[1] == 'assumed')
    document = json.loads(as_json([], protocol))
    assert document['protocol']['stride_from'] == expected[1]


def test_what_cannot_be_predicted_with_is_said_in_one_line(checkpoint):
  source = load_pretrained(checkpoint).source
  with pytest.raises(CheckpointError, match='no classifier'):
    make_protocol(dataclasses.replace(source, task=None))
  with pytest.raises(CheckpointError, match='value range'):
    make_protocol(dataclasses.replace(source, preprocessing=Preprocessing(mean=None, std=None)))
  for wrong in ({'temporal_views': 0}, {'spatial_views': 0}, {'stride': 0}):
    with pytest.raises(ConfigError, match='at least 1'):
      make_protocol(source, **wrong)
  with pytest.raises(ConfigError, match='top=0'):
    predict(load_pretrained(checkpoint), [], top=0)
  assert list(predict(load_pretrained(checkpoint), [])) == []


def test_numbers_that_are_not_finite_are_an_error_of_the_row(tmp_path, checkpoint):
  pretrained = load_pretrained(checkpoint)
  flat = traverse_util.flatten_dict(pretrained.params)
  flat['head', 'bias'] = np.full(3, np.inf, np.float32)
  pretrained = dataclasses.replace(pretrained, params=traverse_util.unflatten_dict(flat))
  (found,) = predict(pretrained, [write_video(tmp_path / 'x.mp4')], temporal_views=1)
  assert 'non-finite' in found.error


def test_files_folders_and_lists_are_collected(tmp_path, monkeypatch):
  for name in ('b.mp4', 'a/z.AVI', 'a/y.webm', 'a/notes.txt', '.hidden/x.mp4', 'odd.bin'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  (tmp_path / 'list.csv').write_text('label,path,start,end\nx,b.mp4,,\ny,a/z.AVI,1.5,2\n')
  monkeypatch.chdir(tmp_path)
  found = collect_videos(['odd.bin', '.', Path('list.csv')])
  spans = [(v.path, v.start, v.end) for v in found]
  assert spans == [
    ('odd.bin', None, None),
    ('a/y.webm', None, None),
    ('a/z.AVI', None, None),
    ('b.mp4', None, None),
    ('b.mp4', None, None),
    ('a/z.AVI', 1.5, 2.0),
  ]


@pytest.mark.parametrize(
  'content, reason',
  [
    (None, 'x.csv does not exist'),
    ('path\n', 'lists no videos'),
    ('file\na.mp4\n', "no column 'path'"),
    ('path\nb.mp4\nc.mp4\n', r'x.csv:2 .*b.mp4 does not exist \(and 1 more\)'),
    ('path\n""\n', 'x.csv:2 has no usable path'),
    ('path,start\na.mp4,soon\n', "x.csv:2 start='soon' is not a time"),
    ('path,start,end\na.mp4,2,1\n', 'is not after start'),
    ('path\n"a.mp4\n', 'not valid CSV'),
    (b'path\n\xff\n', 'not UTF-8'),
  ],
)
def test_lists_that_cannot_be_used_are_one_line(tmp_path, content, reason):
  (tmp_path / 'a.mp4').write_bytes(b'')
  if content is not None:
    text = content if isinstance(content, bytes) else content.encode()
    (tmp_path / 'x.csv').write_bytes(text)
  with pytest.raises(DataError, match=reason) as error:
    collect_videos([tmp_path / 'x.csv'])
  assert '\n' not in str(error.value)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(DataError, match='has no videos'):
    collect_videos([tmp_path / 'empty'])


def test_run_prints_a_table_or_json_and_fails_where_a_video_did(tmp_path, checkpoint, capsys):
  pretrained = load_pretrained(checkpoint)
  good = write_video(tmp_path / 'good.mp4', 3)  # shorter than the clip
  assert run(pretrained, [good], views=(2, 3), top=2) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == (
    '2x3 views of 4 frames, every 3 frames, 32x32 pixels of a short side of 37, rgb from -1 to 1'
  )
  assert lines[2].split() == ['video', 'frames', 'used', 'seconds', 'label']
  assert lines[3].split()[:4] == [str(good), '3', '1', '0.20']
  assert len(lines) == 5
  assert all(line.endswith('%') for line in lines[3:])

  bad = tmp_path / 'bad\x1b[2J.mp4'
  bad.write_text('words')
  assert run(pretrained, [good, bad]) == 1
  out = capsys.readouterr().out
  assert '\x1b' not in out
  assert "error: not a video: text that begins 'words'" in out
  assert out.endswith('1 of 2 videos have no prediction\n')

  assert run(pretrained, [good, bad], as_json=True, top=1) == 1
  document = json.loads(capsys.readouterr().out)
  assert [v['error'] is None for v in document['videos']] == [True, False]
  (best,) = document['videos'][0]['heads']['label']
  assert best['label'] in ('jump', 'run', 'swim')
  assert document['videos'][1]['heads'] == {}


@pytest.mark.parametrize(
  'size, expected', [((48, 64), [(8, 0), (8, 16), (8, 32)]), ((64, 48), [(0, 8), (16, 8), (32, 8)])]
)
def test_crops_of_a_short_side_leave_a_margin_on_both_sides(size, expected):
  y, x = np.indices(size)
  frame = np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)
  crops = SpatialCrops(32, 32, 3, short_side=48)(frame)  # no scaling: pixels say where they were
  assert [tuple(crop[0, 0, :2]) for crop in crops] == expected
  np.testing.assert_array_equal(SpatialCrops(32, 32, 1, 48)(frame)[0], crops[1])
  # Too small a side for the crop: the frame just covers it, as if nothing had been said.
  small = SpatialCrops(32, 32, 3, short_side=20)(frame)
  np.testing.assert_array_equal(small, SpatialCrops(32, 32, 3)(frame))
