# SPDX-License-Identifier: Apache-2.0
"""Features: those of the model, of the right seconds, streamed, and continued after a kill."""

import errno
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet

from support.videos import write_images, write_video
from support.working_models import VARIANTS, pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.data.examples import read_view
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.reader import DecodeError, VideoReader
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.data.video.stream import VideoStream
from vivit_jax.errors import ConfigError, DataError
from vivit_jax.inference.clock import lay_windows
from vivit_jax.inference.feature_files import Store, write_all
from vivit_jax.inference.features import Extractor, open_stream
from vivit_jax.inference.predict import experiment, make_protocol, unlabelled
from vivit_jax.inference.stages import classify, represent
from vivit_jax.inference.windows import batches, center_crop

LEVELS = ('clip', 'frames', 'tokens')


@pytest.fixture
def noise(tmp_path, rng):
  """A video of 40 frames of which no two are alike."""
  small = rng.integers(0, 255, (40, 6, 8, 3), np.uint8)
  return write_images(tmp_path / 'noise.mp4', small.repeat(8, axis=1).repeat(8, axis=2))


def test_a_stream_has_the_frames_that_reading_has(tmp_path):
  file = write_video(tmp_path / 'x.mp4', 40, bf='2', g='9')
  for wanted in ([0, 3, 4, 17, 39], [20, 21], list(range(40)), []):
    with VideoStream(str(file), 0.0, None) as stream:
      found = list(stream.stream(np.array(wanted, int), lambda frame: frame))
    assert [index for index, _ in found] == wanted
    if wanted:
      with VideoReader(str(file)) as reader:
        np.testing.assert_array_equal(
          np.stack([f for _, f in found]), reader.read(np.array(wanted))
        )


def test_a_stream_of_a_span_and_of_a_counted_file(tmp_path):
  file = write_video(tmp_path / 'x.mp4', 30)
  with VideoStream(str(file), 1.0, 2.0) as span, VideoReader(str(file)) as reader:
    found = [frame for _, frame in span.stream(np.arange(span.frames), lambda frame: frame)]
    np.testing.assert_array_equal(np.stack(found), reader.read(np.arange(10, 20)))
  counted = write_video(tmp_path / 'x.avi', 20, codec='mpeg4', bf='2')
  with VideoStream(str(counted)) as stream, VideoReader(str(counted)) as reader:
    found = [frame for _, frame in stream.stream(np.array([2, 9, 15]), lambda frame: frame)]
    np.testing.assert_array_equal(np.stack(found), reader.read(np.array([2, 9, 15])))


def test_a_stream_of_a_damaged_file_says_so(tmp_path):
  file = write_video(tmp_path / 'x.mp4', 40)
  content = bytearray(file.read_bytes())
  start = content.index(b'mdat') + len(content) // 3
  content[start : start + 2000] = b'\xff' * 2000
  file.write_bytes(content)
  with pytest.raises(DecodeError), VideoStream(str(file)) as stream:
    list(stream.stream(np.arange(40), lambda frame: frame))


@pytest.mark.parametrize('attention, pooling', VARIANTS)
def test_the_head_on_clip_features_gives_the_logits(attention, pooling, rng):
  model = pretrained(attention, pooling=pooling)
  video = jnp.asarray(rng.normal(size=(2, 8, 32, 48, 3)), jnp.float32)

  @jax.jit
  def run(params, x):
    features = {level: represent(model.model, params, x, level) for level in LEVELS}
    logits = classify(model.model, params, features['clip'])
    return features, logits, model.model.apply({'params': params}, x)

  features, logits, expected = run(model.params, video)
  assert features['clip'].shape == (2, 16)
  assert features['frames'].shape == (2, 4, 16)
  assert features['tokens'].shape == (2, 4, 6, 16)
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  if pooling == 'mean':  # what is pooled are the finer features
    np.testing.assert_allclose(features['frames'].mean(axis=1), features['clip'], atol=1e-5)
  if attention != 'factorised_encoder' and pooling == 'mean':
    np.testing.assert_allclose(features['tokens'].mean(axis=2), features['frames'], atol=1e-5)


@pytest.mark.parametrize('level', LEVELS)
def test_rows_are_those_of_each_window_alone(noise, level):
  model = pretrained()
  extractor = Extractor(model, level, hop=0.8)
  found = extractor.whole(noise)
  protocol = make_protocol(model.source, 1, 1)
  windows = [range(start, start + 15, 2) for start in (0, 8, 16, 24)]
  with VideoReader(str(noise)) as reader:
    pixels = np.stack([reader.read(np.array(w), center_crop(protocol))[:, 0] for w in windows])
  values = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
  run = jax.jit(lambda p, x: represent(model.model, p, x, level))
  expected = np.asarray(run(model.params, values))
  np.testing.assert_allclose(found.values, expected.reshape(found.values.shape), atol=1e-4)
  first = [[0.0, 1.5]] if level == 'clip' else [[k, k + 0.3] for k in (0.0, 0.4, 0.8, 1.2)]
  np.testing.assert_allclose(found.seconds[: len(first)], first, atol=1e-6)
  np.testing.assert_allclose(found.seconds[-1], [2.4, 3.9] if level == 'clip' else [3.6, 3.9])


def test_one_clip_is_that_of_predict(noise):
  model = pretrained()
  found = Extractor(model, 'clip').central(noise)
  settings = experiment(model.source, make_protocol(model.source, 1, 1))
  view = read_view(unlabelled([Video(str(noise), None, None, ())]), 0, settings)
  values = jnp.asarray(view[None] / 127.5 - 1, jnp.float32)
  expected = jax.jit(lambda p, x: represent(model.model, p, x, 'clip'))(model.params, values)
  np.testing.assert_allclose(found.values, expected, atol=1e-4)
  np.testing.assert_allclose(found.seconds, [[1.2, 2.7]], atol=1e-6)


def test_windows_in_seconds_show_the_nearest_frames():
  protocol = make_protocol(pretrained(sees={'stride_seconds': 0.2}).source, 1, 1)
  rng = np.random.default_rng(0)
  times = np.cumsum(rng.uniform(0.02, 0.2, 200)) - 0.0
  times -= times[0]
  windows = lay_windows(times, protocol, 0.4, 2)
  assert windows.varies
  shown = windows.frames[windows.ticks()]
  for row, start in zip(shown, windows.starts, strict=True):
    at = 0.2 * (start + np.arange(8))
    best = np.abs(times[None] - at[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(times[row] - at), best)
  np.testing.assert_array_equal(np.diff(windows.starts), 2)
  assert windows.spans()[-1, 1] <= times[-1] + 0.2


def test_a_video_shorter_than_a_window_has_one_that_begins_again(tmp_path):
  file = write_video(tmp_path / 'x.mp4', 5)
  found = Extractor(pretrained(), 'clip').whole(file)
  assert found.values.shape == (1, 16)
  np.testing.assert_allclose(found.seconds, [[0.0, 0.5]], atol=1e-6)
  protocol = make_protocol(pretrained().source, 1, 1)
  times = np.arange(5) / 10
  windows = lay_windows(times, protocol, None, 8)
  np.testing.assert_array_equal(windows.ticks(), evaluation_clips(times, protocol.clip, 1))


def test_sampled_frames_have_the_seconds_of_their_clip(noise):
  extractor = Extractor(
    pretrained(tokenizer='uniform_frame_sampling', sampled_frames=4, patch=(1, 16, 16)), 'frames'
  )
  found = extractor.whole(noise)
  assert found.values.shape == (8, 16)
  np.testing.assert_allclose(found.seconds[:4], [[0.0, 1.5]] * 4, atol=1e-6)


@pytest.mark.parametrize(
  'hop, sees, reason',
  [
    (0.25, {}, r'--hop=0.25 is 2.5 steps of 0.1 s.*give 0.2 or 0.3 s'),
    (0.04, {}, r'--hop=0.04 is 0.4 steps.*give 0.1 s'),
    (-1.0, {}, r'--hop=-1.0 is not a time'),
    (float('nan'), {}, r'is not a time'),
    (0.3, {'stride_seconds': 0.2}, r'1.5 steps of 0.2 s'),
    (None, {'sampling': 'whole_video'}, r'samples its frames from the whole video'),
    (None, {'stride_seconds': 0.0}, r'have no length'),
  ],
)
def test_a_hop_that_no_window_can_have_is_one_line(hop, sees, reason):
  protocol = make_protocol(pretrained(sees=sees).source, 1, 1)
  with pytest.raises(ConfigError, match=reason):
    lay_windows(np.arange(100) / 10, protocol, hop, 8)


def test_time_stamps_gone_wrong_cost_no_memory():
  protocol = make_protocol(pretrained(sees={'stride_seconds': 0.04}).source, 1, 1)
  with pytest.raises(DataError, match='by its time stamps'):
    lay_windows(np.array([0.0, 0.04, 1e12]), protocol, None, 8)


@pytest.mark.parametrize('kind', ['npy', 'parquet'])
@pytest.mark.parametrize('level', ['clip', 'tokens'])
def test_files_hold_rows_and_seconds_and_bad_videos_are_listed(
  tmp_path, noise, kind, level, capsys
):
  model = pretrained()
  checkpoint = save(model, tmp_path / 'x.safetensors')
  bad = tmp_path / 'bad.mp4'
  bad.write_text('words')
  arguments = [
    *('features', str(checkpoint), str(bad), str(noise), f'--level={level}', '--hop=0.8'),
    *(f'--to={kind}', f'--output={tmp_path / "out"}'),
  ]
  assert main(arguments) == 1
  out = capsys.readouterr().out
  assert f"{bad}: not a video: text that begins 'words'" in out
  assert '1 of 2 videos could not be read' in out
  (file,) = (tmp_path / 'out').glob(f'noise-*.{kind}')
  expected = Extractor(model, level, hop=0.8).whole(noise)
  if kind == 'npy':
    rows = np.load(file)
    seconds, values = rows['seconds'], rows['features']
  else:
    table = parquet.read_table(file)
    seconds = np.stack([table['start'].to_numpy(), table['end'].to_numpy()], axis=1)
    values = np.array(table['features'].to_pylist(), np.float32)
    assert table.schema.metadata[b'shape'] == (b'[16]' if level == 'clip' else b'[6, 16]')
  np.testing.assert_array_equal(seconds, expected.seconds)
  np.testing.assert_array_equal(values.reshape(expected.values.shape), expected.values)
  # Again: nothing is read but the bad one.
  written = file.stat().st_mtime_ns
  assert main(arguments) == 1
  assert file.stat().st_mtime_ns == written
  assert len((tmp_path / 'out' / 'index.csv').read_text().splitlines()) == 3


@pytest.mark.parametrize(
  'other, reason',
  [
    (['--level=frames'], "has features with level='clip', not 'frames'"),
    (['--to=parquet'], "with format='npy', not 'parquet'"),
    (['--window=2'], 'with protocol='),
    (['--window=0'], '--window=0.0 is not a time'),
    (['--window=2', '--stride=3'], 'give one of them'),
    (['--hop=nan'], 'is not a time'),
  ],
)
def test_another_kind_of_features_is_not_mixed_in(tmp_path, noise, other, reason, capsys):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  command = ['features', str(checkpoint), str(noise), f'--output={tmp_path / "out"}']
  assert main(command) == 0
  assert main([*command, *other]) == 2
  assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_other_files_is_left_alone(tmp_path, noise, capsys):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  assert main(['features', str(checkpoint), str(noise), f'--output={tmp_path}']) == 2
  assert 'has other files' in capsys.readouterr().err
  assert main(['features', str(checkpoint), str(noise), f'--output={noise}']) == 2
  assert 'is a file' in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize('kind', ['npy', 'parquet'])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, noise, kind):
  """A limit on the size of files stands for a disk that fills up in the middle of one."""
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  program = (
    'import resource, signal, sys\n'
    'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n'
    'from vivit_jax.cli.main import main\n'
    'sys.exit(main(sys.argv[1:]))\n'
  )
  out = tmp_path / 'out'
  result = subprocess.run(
    [sys.executable, '-c', program, 'features', str(checkpoint), str(noise), '--level=tokens',
     '--hop=0.1', f'--to={kind}', f'--output={out}'],
    capture_output=True, text=True, check=False, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert result.returncode == 2, result.stderr
  assert os.strerror(errno.EFBIG) in result.stderr.splitlines()[-1]
  assert sorted(file.name for file in out.iterdir()) == ['features.json', 'index.csv']


@pytest.mark.faults
def test_killed_and_run_again_it_has_the_same_files(tmp_path, noise):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  folder = tmp_path / 'videos'
  folder.mkdir()
  for k in range(24):
    (folder / f'{k:02}.mp4').write_bytes(noise.read_bytes())
  command = [
    sys.executable, '-m', 'vivit_jax', 'features', str(checkpoint), str(folder), '--level=tokens',
    '--hop=0.2',
  ]  # fmt: skip
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  out = tmp_path / 'out'
  process = subprocess.Popen([*command, f'--output={out}'], env=environment)
  until = time.monotonic() + 120
  while len(list(out.glob('*.npy'))) < 5 and time.monotonic() < until:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = {file.name: file.stat().st_mtime_ns for file in out.glob('*.npy')}
  assert 5 <= len(before) < 24
  with (out / 'index.csv').open('a') as index:
    index.write('torn,')  # as a kill may leave it
  subprocess.run([*command, f'--output={out}'], env=environment, check=True)
  subprocess.run([*command, f'--output={tmp_path / "whole"}'], env=environment, check=True)
  files = {file.name for file in out.iterdir()}
  assert files == {file.name for file in (tmp_path / 'whole').iterdir()}
  for name in files - {'index.csv'}:
    assert (out / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
  kept = sum((out / name).stat().st_mtime_ns == stamp for name, stamp in before.items())
  assert kept >= len(before) - 1  # the one without its line is done again
  assert len((out / 'index.csv').read_text().splitlines()) == 25


def test_videos_of_any_length_and_a_hop_that_does_not_fit_one(tmp_path):
  extractor = Extractor(pretrained(), 'clip', hop=0.8)
  videos = [write_video(tmp_path / f'{n}.mp4', n) for n in (5, 17, 40)]
  assert [len(extractor.whole(file).values) for file in videos] == [1, 1, 4]
  store = Store(tmp_path / 'out', 'npy', {})
  odd = Extractor(pretrained(), 'clip', hop=0.25)
  (failed,) = write_all(odd, [Video(str(videos[2]), None, None, ())], store, quiet=True)
  assert failed[1].startswith('--hop=0.25 is 2.5 steps')


def test_memory_does_not_grow_with_the_video(tmp_path):
  extractor = Extractor(pretrained(), 'clip', hop=0.4)
  peaks = []
  for frames in (40, 800):
    with open_stream(write_video(tmp_path / f'{frames}.mp4', frames)) as reader:
      laid = extractor.windows(reader)
      crops = center_crop(extractor.protocol)
      tracemalloc.start()
      count = sum(rows for rows, _ in batches(reader, laid.frames[laid.ticks()], crops, 2))
      peaks.append(tracemalloc.get_traced_memory()[1])
      tracemalloc.stop()
    assert count == len(laid.starts)
  assert peaks[1] - peaks[0] < 200e3  # numbers of frames; 800 crops would be 3.7 MB
