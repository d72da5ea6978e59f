# SPDX-License-Identifier: Apache-2.0
"""Timelines: equal to window-by-window runs, cheaper where tubelets are reused, in true seconds."""

import csv
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from support.videos import write_images, write_video
from support.working_models import LABELS, pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.config.schema import SIZES, Clip, Model, Task
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.inference import timeline as module
from vivit_jax.inference.predict import make_protocol
from vivit_jax.inference.segments import Segment, segments
from vivit_jax.inference.timeline import Timeliner, can_reuse, compile_parts
from vivit_jax.inference.timeline_page import Pictures, clock
from vivit_jax.inference.windows import center_crop
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights.pretrained import Pretrained
from vivit_jax.weights.source import Preprocessing, Source


@pytest.fixture
def noise(tmp_path, rng):
  """A video of 70 frames of which no two are alike; 10 a second."""
  small = rng.integers(0, 255, (70, 6, 8, 3), np.uint8)
  return write_images(tmp_path / 'noise.mp4', small.repeat(8, axis=1).repeat(8, axis=2))


def naive(model, video, starts, stride=2, frames=8):
  """Logits of windows, each read and run by itself."""
  protocol = make_protocol(model.source, 1, 1)
  with VideoReader(str(video)) as reader:
    pixels = [
      reader.read(np.arange(start, start + stride * frames, stride), center_crop(protocol))[:, 0]
      for start in starts
    ]
  return model.logits(np.stack(pixels))


@pytest.mark.parametrize(
  'hop, phases, starts',
  [
    (None, 1, range(0, 56, 4)),  # one tubelet of 2 frames, 2 apart
    (0.8, 1, range(0, 56, 8)),
    (0.2, 2, range(0, 56, 2)),
    (0.1, 4, range(56)),
    (0.6, 2, range(0, 56, 6)),
    (3.0, 2, [0, 30]),
  ],
)
@pytest.mark.parametrize('pooling', ['cls', pytest.param('mean', marks=pytest.mark.faults)])
def test_reuse_equals_window_by_window(noise, hop, phases, starts, pooling):
  model = pretrained(pooling=pooling, scale=0.15)
  found = Timeliner(model, hop).run(noise)
  assert found.phases == phases
  np.testing.assert_allclose(found.seconds[:, 0], np.array(starts) / 10, atol=1e-6)
  np.testing.assert_allclose(found.seconds[:, 1] - found.seconds[:, 0], 1.5, atol=1e-6)
  np.testing.assert_allclose(found.logits, naive(model, noise, starts), atol=1e-5)
  assert np.ptp(found.logits, axis=0).max() > 0.05  # windows differ


def test_reuse_over_many_windows_and_without_temporal_layers(tmp_path, rng, monkeypatch):
  monkeypatch.setattr(module, 'WINDOWS', 3)
  monkeypatch.setattr(module, 'TUBELETS', 5)
  small = rng.integers(0, 255, (100, 6, 8, 3), np.uint8)
  video = write_images(tmp_path / 'x.mp4', small.repeat(8, axis=1).repeat(8, axis=2))
  model = pretrained(temporal_layers=0, scan=True, remat='block', scale=0.15)
  found = Timeliner(model).run(video)
  np.testing.assert_allclose(found.logits, naive(model, video, range(0, 86, 4)), atol=1e-5)


@pytest.mark.parametrize('attention', ['spatio_temporal', 'factorised_self_attention'])
def test_other_models_run_windows_over_one_decode(noise, attention):
  model = pretrained(attention, scale=0.15)
  found = Timeliner(model).run(noise)
  assert found.phases == 0
  starts = range(0, 56, 4)  # a quarter of 8 frames, 2 apart
  np.testing.assert_allclose(found.logits, naive(model, noise, starts), atol=1e-5)


def test_sampled_frames_depend_on_the_window():
  assert not can_reuse(Model(attention='factorised_encoder', sampled_frames=4))
  assert can_reuse(Model(attention='factorised_encoder'))
  assert not can_reuse(Model(attention='factorised_dot_product'))


def test_a_clock_in_seconds_is_one_for_the_whole_video(noise):
  model = pretrained(sees={'stride_seconds': 0.25}, scale=0.15)
  found = Timeliner(model).run(noise)
  each = Timeliner(model, 0.5, reuse=False).run(noise)
  assert found.phases == 1
  np.testing.assert_allclose(found.seconds[:, 0], 0.5 * np.arange(len(found.seconds)))
  np.testing.assert_allclose(found.logits, each.logits, atol=1e-5)


def test_a_video_shorter_than_a_window_is_one_that_begins_again(tmp_path):
  model = pretrained(scale=0.15)
  video = write_video(tmp_path / 'x.mp4', 9)
  found = Timeliner(model).run(video)
  assert found.logits.shape == (1, 6)
  protocol = make_protocol(model.source, 1, 1)
  with VideoReader(str(video)) as reader:
    pixels = reader.read(np.arange(0, 16, 2) % 9, center_crop(protocol))[:, 0]
  np.testing.assert_allclose(found.logits, model.logits(pixels[None]), atol=1e-5)


def flops(function, *shapes):
  return function.lower(*shapes).cost_analysis()['flops']


def test_reuse_takes_a_tenth_of_the_operations(monkeypatch):
  """B/16x2 on 32 frames: 16 tubelets, at a hop of one of them."""
  size = SIZES['B']
  config = Model(
    attention='factorised_encoder', layers=size.layers, width=size.width, mlp_dim=size.mlp_dim,
    heads=size.heads, attention_kernel='plain',
  )  # fmt: skip
  model = ViViT(config, 400)
  params = abstract_params(model, Clip())
  source = Source(
    Path('x'), 't', 'video', {}, config, 32, 224, 224, Task(), None, Preprocessing(), {}
  )
  programs = []
  real = jax.jit
  monkeypatch.setattr(jax, 'jit', lambda f: programs.append(real(f)) or programs[-1])
  monkeypatch.setattr(jax, 'device_put', lambda x: x)
  shell = Pretrained(model, params, source)
  protocol = make_protocol(source, 1, 1)
  assert shell.forward is not None
  compile_parts(shell, protocol)
  whole, spatial, temporal = programs

  def pixels(frames):
    return jax.ShapeDtypeStruct((1, frames, 224, 224, 3), np.uint8)

  window = flops(whole, params, pixels(32))
  reused = flops(spatial, params, pixels(2)) + flops(
    temporal, params, jax.ShapeDtypeStruct((1, 16, 768), np.float32)
  )
  assert window / reused > 15


def test_only_the_ring_is_kept(monkeypatch):
  model = pretrained()
  timeliner = Timeliner(model)
  encoded = (np.zeros((16, 16), np.float32) for _ in range(400))
  places = np.arange(6400 - 3)[:, None] + np.arange(4)
  sizes = []
  stack = np.stack
  monkeypatch.setattr(module.np, 'stack', lambda rows: sizes.append(len(rows)) or stack(rows))
  logits = list(timeliner._classify(encoded, places))
  assert sum(map(len, logits)) == len(places)
  assert max(sizes) <= module.WINDOWS


def test_neighbours_of_one_label_are_a_segment():
  shares = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
  seconds = np.array([[0, 2], [1, 3], [2, 4], [3, 5]], float)
  found = segments('verb', ('a', 'b'), 'single_label', shares, seconds, 6.0)
  assert found == [
    Segment('verb', 'a', 0.0, 2.5, 2.0, 0.9, 0.75),
    Segment('verb', 'b', 2.5, 3.5, 3.0, 0.7, 0.7),
    Segment('verb', 'a', 3.5, 6.0, 4.0, 0.8, 0.8),
  ]
  tags = segments('tags', ('a', 'b'), 'multi_label', shares[:, [0, 0]], seconds, 6.0)
  assert [(s.label, s.start, s.end) for s in tags] == [
    ('a', 0.0, 2.5), ('b', 0.0, 2.5), ('a', 3.5, 6.0), ('b', 3.5, 6.0)
  ]  # fmt: skip
  assert segments('tags', ('a',), 'multi_label', shares[:, :1] * 0, seconds, 6.0) == []


def test_pictures_are_spread_however_long_the_stream():
  for count in (1, 5, 1000):
    pictures = Pictures()
    for k in range(count):
      pictures(float(k), np.zeros((8, 8, 3), np.uint8))
    seconds = [s for s, _ in pictures.jpegs()]
    assert len(seconds) == min(12, count)
    assert seconds == sorted(set(seconds))
    if count > 12:
      np.testing.assert_allclose(np.diff(seconds), count / 12, rtol=0.5)


def test_times_are_written_as_clocks():
  assert [clock(s) for s in (0.0, 3.44, 59.96, 3723.4)] == [
    '0:00.0',
    '0:03.4',
    '1:00.0',
    '1:02:03.4',
  ]


def test_the_command_prints_and_writes_a_page(tmp_path, noise, capsys):
  checkpoint = str(save(pretrained(), tmp_path / 'x.safetensors'))
  bad = tmp_path / '<b>.mp4'
  bad.write_text('words')
  page = tmp_path / 'x.html'
  command = ['timeline', checkpoint, str(bad), str(noise)]
  assert main([*command, f'--html={page}']) == 1
  printed = capsys.readouterr()
  assert f"{bad}: not a video: text that begins 'words'" in printed.err
  assert '14 windows, 0.4 s apart, each tubelet encoded once' in printed.out
  text = page.read_text()
  assert text.count('data:image/jpeg') == 12
  assert '<polyline' in text
  assert "default-src 'none'" in text
  assert '<b>' not in text

  assert main([*command, '--json', '--hop=0.2']) == 1
  missing, found = json.loads(capsys.readouterr().out)['videos']
  assert missing['error'].startswith('not a video')
  assert (found['phases'], found['hop']) == (2, pytest.approx(0.2))
  assert {s['label'] for s in found['segments']} <= set(LABELS)
  assert found['segments'][0]['start'] == 0.0
  assert found['segments'][-1]['end'] == pytest.approx(7.0)
  assert len(found['windows']) == 28 * 5

  assert main([*command, '--csv']) == 1
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  assert len(rows) == 14 * 5
  assert float(rows[5]['start']) == pytest.approx(0.4)


@pytest.mark.parametrize(
  'arguments, reason',
  [
    (['--hop=0'], '--hop=0.0 is not a time'),
    (['--html=none/x.html'], 'its folder does not exist'),
  ],
)
def test_a_timeline_that_cannot_be_is_one_line(
  tmp_path, noise, arguments, reason, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  checkpoint = str(save(pretrained(), tmp_path / 'x.safetensors'))
  assert main(['timeline', checkpoint, str(noise), *arguments]) == 2
  assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_hop_that_does_not_fit_a_video_is_its_reason(tmp_path, noise, capsys):
  checkpoint = str(save(pretrained(), tmp_path / 'x.safetensors'))
  assert main(['timeline', checkpoint, str(noise), '--hop=0.15']) == 1
  assert '--hop=0.15 is 1.5 steps of 0.1 s' in capsys.readouterr().err
  whole = pretrained(sees={'sampling': 'whole_video'})
  checkpoint = str(save(whole, tmp_path / 'y.safetensors'))
  assert main(['timeline', checkpoint, str(noise)]) == 2
  assert 'samples its frames from the whole video' in capsys.readouterr().err
