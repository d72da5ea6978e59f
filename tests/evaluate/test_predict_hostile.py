# SPDX-License-Identifier: Apache-2.0
"""Predictions where the checkpoint claims too much, the file is damaged or its name is odd."""

import dataclasses
import json
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from flax import traverse_util

from golden import make
from support.videos import numbers, write_video
from support.views import read_views
from vivit_jax.cli import main
from vivit_jax.cli.options import parse_views
from vivit_jax.config.file import load
from vivit_jax.config.parse import MAX_VIEWS, check_views
from vivit_jax.config.schema import Clip, Model, Task
from vivit_jax.data import decoders, pipeline
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.lenient import LenientReader
from vivit_jax.data.video.reader import DecodeError, VideoReader
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.predictions import as_table
from vivit_jax.inference.predict import make_protocol, predict, run
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights import export
from vivit_jax.weights.pretrained import load_pretrained
from vivit_jax.weights.source import Preprocessing, Source

GOLDEN = Path(make.__file__).parent


@pytest.fixture(scope='module')
def pretrained():
  return load_pretrained(GOLDEN / make.CHECKPOINT)


def spoil(file: Path, frame: int) -> Path:
  """Overwrites the packet of a frame with zeros, which no decoder takes."""
  with av.open(str(file)) as container:
    packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    by_time = sorted(packets, key=lambda p: p.pts)
    place, size = by_time[frame].pos, by_time[frame].size
  data = bytearray(file.read_bytes())
  data[place : place + size] = bytes(size)
  file.write_bytes(data)
  return file


@pytest.mark.parametrize('frames', [200_000, 2_000_000_000])
def test_a_clip_that_no_tensor_bounds_is_refused_early(tmp_path, frames, capsys):
  model = Model(
    layers=1, width=16, mlp_dim=16, heads=1, tokenizer='uniform_frame_sampling',
    patch=(1, 16, 16), sampled_frames=4,
  )  # fmt: skip
  shapes = traverse_util.flatten_dict(
    abstract_params(ViViT(model, 2), Clip(4, height=32, width=32)), sep='/'
  )
  params = {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}
  source = Source(
    tmp_path, 'test', 'video', params, model, frames, 32, 32, Task(classes=(2,)), None,
    Preprocessing(), {},
  )  # fmt: skip
  file = tmp_path / 'x.safetensors'
  export.write(source, file)
  assert file.stat().st_size < 100_000
  video = write_video(tmp_path / 'x.mp4')
  assert main.main(['predict', f'--checkpoint={file}', str(video)]) == 2
  (line,) = [line for line in capsys.readouterr().err.splitlines() if 'MiB' in line]
  assert f'4x3 views of {frames} frames of 32x32 pixels take ' in line
  assert 'give fewer views' in line


@pytest.mark.parametrize('views', [(100_000, 100_000), (1, 10**8), (10**8, 1)])
def test_more_views_than_memory_holds_are_one_line(pretrained, views):
  with pytest.raises(ConfigError, match=r'MiB for each video, more than 512: give fewer') as info:
    make_protocol(pretrained.source, *views)
  assert '\n' not in str(info.value)
  with pytest.raises(ConfigError, match='MiB for each video'):
    load(['--config=configs/moving_digits.py', f'--config.evaluate.temporal_views={views[0]}',
          f'--config.evaluate.spatial_views={views[1]}'])  # fmt: skip


def test_bounds_on_views_leave_room_for_all_of_the_paper():
  check_views(4, 3, Clip(128, height=320, width=320))  # Table 6a and the largest frames of Table 5
  check_views(10, 3, Clip(64))
  size = 3 * 224 * 224 * 32
  check_views(MAX_VIEWS // size, 1, Clip())
  with pytest.raises(ConfigError):
    check_views(MAX_VIEWS // size + 1, 1, Clip())
  with pytest.raises(ConfigError, match='is not TxS'):
    parse_views('9' * 5000 + 'x1')


@pytest.mark.parametrize('name', ['12:30:00.mp4', 'file:x.mp4', 'http:x.mp4', '-x.mp4'])
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch, pretrained, name):
  write_video(tmp_path / name)
  monkeypatch.chdir(tmp_path)
  (found,) = predict(pretrained, [name], temporal_views=1, spatial_views=1)
  assert (found.error, found.path, found.frames) == (None, name, 24)


def test_a_missing_file_is_still_named_as_it_was_given(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(DecodeError, match=r'^12:30.mp4: missing'):
    VideoReader('12:30.mp4')


@pytest.mark.parametrize('bad', [0, 5, 13, 14, 23, 39])
def test_a_bad_frame_is_replaced_by_the_nearest_decodable(tmp_path, bad):
  file = str(spoil(write_video(tmp_path / 'x.mp4', 40, bf='2'), bad))
  with VideoReader(file) as reader, pytest.raises(DecodeError, match='damaged'):
    reader.read(np.arange(40))
  with (reader := LenientReader(file)):
    found = numbers(reader.read(np.arange(40)))
    good = found == np.arange(40)
    assert reader.missing == np.count_nonzero(~good)
    assert 1 <= reader.missing <= 16  # no more than those that depend on it, and on the same key
    assert not good[bad]
    there = np.flatnonzero(good)
    nearest = np.abs(there[None] - np.arange(40)[:, None]).min(axis=1)
    np.testing.assert_array_equal(np.abs(found - np.arange(40)), nearest)
    assert np.isin(found, there).all()


def test_nothing_to_decode_is_still_an_error(tmp_path, pretrained):
  file = write_video(tmp_path / 'x.mp4', 40)
  for frame in range(40):
    spoil(file, frame)
  (found,) = predict(pretrained, [file])
  assert found.error.startswith('damaged')
  assert not found.heads


def test_an_answer_from_the_frames_there_are_says_so(tmp_path, pretrained, capsys):
  good = write_video(tmp_path / 'good.mp4', 40)
  bad = spoil(write_video(tmp_path / 'bad.mp4', 40), 20)
  views, whole = (
    read_views(pretrained.source, Video(str(file), None, None, ()))[1] for file in (bad, good)
  )
  assert whole.missing == 0
  assert views.missing > 0
  assert views.used + views.missing == whole.used
  assert views.frames == whole.frames

  assert run(pretrained, [good, bad]) == 0
  out = capsys.readouterr().out
  assert f'{bad} is damaged: {views.missing:.0f} frames of its views cannot be decoded' in out
  assert out.count('damaged') == 1
  assert run(pretrained, [good, bad], as_json=True) == 0
  document = json.loads(capsys.readouterr().out)
  assert [v['missing'] for v in document['videos']] == [0, views.missing]
  used = [v['used'] for v in document['videos']]
  assert used[0] - used[1] == views.missing
  assert all(v['heads']['label'] for v in document['videos'])

  (found,) = predict(pretrained, [bad])
  odd = dataclasses.replace(found, path='\x1b[2J.mp4')
  assert '\x1b' not in as_table([odd], make_protocol(pretrained.source))


def test_each_span_of_one_file_has_its_own_answer(tmp_path, pretrained):
  file = str(write_video(tmp_path / 'x.mp4', 40))  # 4 seconds
  spans = [(9.0, 10.0), (0.0, 2.0), (7.0, 8.0), (None, None)]
  found = list(predict(pretrained, [Video(file, *span, ()) for span in spans], batch_size=5))
  assert [p.frames for p in found] == [0, 20, 0, 40]
  assert ['no frame from 9.0' in (p.error or '') for p in found] == [True, False, False, False]
  assert ['no frame from 7.0' in (p.error or '') for p in found] == [False, False, True, False]


def test_views_that_wait_are_bounded_in_bytes_on_any_cores(tmp_path, pretrained, monkeypatch):
  found = []

  class Assembly(pipeline.BatchAssembler):
    def __init__(self, *args, ahead, **options):
      found.append(ahead)
      super().__init__(*args, ahead=ahead, **options)

  monkeypatch.setattr(pipeline, 'BatchAssembler', Assembly)
  monkeypatch.setattr(decoders, 'cores', lambda: 64)
  files = [write_video(tmp_path / f'{k}.mp4') for k in range(3)]
  frame = 32 * 32 * 3 * 8
  monkeypatch.setattr(pipeline, 'AHEAD_BYTES', 5 * frame)
  assert [p.error for p in predict(pretrained, files)] == [None] * 3
  assert found == [5]


def test_an_iterator_that_is_left_ends_its_decoders(tmp_path, pretrained):
  before = set(threading.enumerate())
  files = [write_video(tmp_path / f'{k}.mp4') for k in range(9)]
  predictions = predict(pretrained, files)
  next(predictions)
  assert set(threading.enumerate()) > before
  predictions.close()
  assert set(threading.enumerate()) <= before
