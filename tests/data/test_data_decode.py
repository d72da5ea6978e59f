# SPDX-License-Identifier: Apache-2.0
"""Decoding: returns exactly the requested frames, and is safe with hostile or damaged files."""

import pickle
from fractions import Fraction

import av
import numpy as np
import pytest

from support.videos import FIRST, STEP, numbers, write_images, write_video
from vivit_jax.data.video import reader as decode
from vivit_jax.data.video.reader import DecodeError, VideoReader


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('x.mp4', 'libx264', {}),
    ('x.mkv', 'libx264', {}),
    ('x.ts', 'libx264', {}),
    ('x.webm', 'libvpx-vp9', {}),
    ('x.avi', 'mpeg4', {}),
    ('x.flv', 'libx264', {'bf': '2'}),
    ('x.flv', 'flv', {}),
    ('x.mp4', 'mpeg4', {'bf': '2'}),
    ('x.avi', 'mpeg4', {'bf': '2'}),
    ('x.avi', 'libx264', {}),  # its packets are stamped in the order of storage
    ('x.mp4', 'libx265', {'x265-params': 'log-level=none'}),
    ('x.mp4', 'libsvtav1', {'b': '0'}),
    ('x.mpg', 'mpeg2video', {'bf': '2'}),
    ('x.ts', 'mpeg2video', {'bf': '2'}),
    ('x.m2v', 'mpeg2video', {'bf': '2'}),  # no container at all
  ],
)
def test_any_order_gap_and_duplicate_gives_the_frames_asked_for(tmp_path, name, codec, options):
  if codec not in av.codecs_available:
    pytest.fail(f'this PyAV has no encoder {codec}: its files would go untested')
  height, width = (64, 64) if codec == 'libsvtav1' else (48, 64)
  file = write_video(tmp_path / name, 40, height, width, codec, **options)
  with VideoReader('bytes', content=file.read_bytes()) as reader:
    np.testing.assert_array_equal(numbers(reader.read(np.array([7, 39, 3]))), [7, 39, 3])
  with VideoReader(str(file)) as reader:
    assert reader.frames == 40
    np.testing.assert_allclose(reader.seconds, 3.9)
    for wanted in ([0], [39], [12, 11, 13], [5, 5, 38, 0], [37, 1], list(range(40))):
      frames = reader.read(np.array(wanted))
      assert frames.shape == (len(wanted), height, width, 3)
      assert frames.dtype == np.uint8
      np.testing.assert_array_equal(numbers(frames), wanted)


def test_packets_without_timestamps_are_counted(tmp_path, monkeypatch):
  file = str(write_video(tmp_path / 'x.mp4', 40))
  real = av.container.InputContainer.demux

  def untimed(self, stream):
    for packet in real(self, stream):
      packet.pts = None
      yield packet

  class Container:
    """A container of packets whose timestamps were lost; a C class takes no patch."""

    def __init__(self, inner):
      self.inner = inner

    def demux(self, stream):
      return untimed(self.inner, stream)

    def __getattr__(self, name):
      return getattr(self.inner, name)

  open_file = av.open
  monkeypatch.setattr(decode.av, 'open', lambda *a, **k: Container(open_file(*a, **k)))
  with VideoReader(file, start=1.0, end=3.0) as reader:
    assert reader.frames == 20
    np.testing.assert_array_equal(numbers(reader.read(np.array([19, 0, 7]))), [29, 10, 17])


@pytest.mark.parametrize('lengths', [(24, 24), (24, 12), (12, 24)])
def test_two_recordings_in_one_stream_are_both_read(tmp_path, lengths):
  parts = [write_video(tmp_path / f'{k}.ts', frames) for k, frames in enumerate(lengths)]
  file = tmp_path / 'joined.ts'
  file.write_bytes(b''.join(part.read_bytes() for part in parts))
  expected = np.concatenate([np.arange(frames) for frames in lengths])
  with VideoReader(str(file)) as reader:
    assert reader.frames == sum(lengths)
    np.testing.assert_allclose(reader.seconds, (sum(lengths) - 1) / 10)
    np.testing.assert_array_equal(numbers(reader.read(np.arange(sum(lengths)))), expected)
    np.testing.assert_array_equal(numbers(reader.read(np.array([lengths[0], 3]))), [0, 3])
    reader.verify()


def test_frames_of_a_variable_rate_are_found_by_their_times(tmp_path):
  times = [0, 1, 2, 10, 11, 30, 31, 32, 33, 80]  # tenths of a second
  file = tmp_path / 'x.mp4'
  with av.open(str(file), 'w') as container:
    stream = container.add_stream('libx264', rate=10, options={'crf': '5', 'g': '4'})
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    for i, time in enumerate(times):
      level = np.full((48, 64, 3), FIRST + STEP * i, np.uint8)
      frame = av.VideoFrame.from_ndarray(level, format='rgb24')
      frame.pts, frame.time_base = time, Fraction(1, 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with VideoReader(str(file)) as reader:
    assert (reader.frames, round(reader.seconds, 3)) == (10, 8.0)
    np.testing.assert_array_equal(numbers(reader.read(np.array([9, 3, 6]))), [9, 3, 6])
  with VideoReader(str(file), start=1.0, end=3.15) as reader:
    np.testing.assert_array_equal(numbers(reader.read(np.arange(reader.frames))), [3, 4, 5, 6])


@pytest.mark.parametrize(
  'name, codec, pix_fmt, height, width',
  [
    ('x.mp4', 'libx264', 'yuv420p10le', 48, 64),
    ('x.mp4', 'libx265', 'yuv420p10le', 48, 64),
    ('x.webm', 'libvpx-vp9', 'yuv420p', 47, 63),
    ('x.mp4', 'libx264', 'yuv444p', 47, 63),
    ('x.avi', 'mpeg4', 'yuv420p', 33, 35),
    ('x.avi', 'mjpeg', 'yuvj420p', 47, 63),
  ],
)
def test_ten_bits_odd_sizes_and_full_range_give_the_same_colours(
  tmp_path, name, codec, pix_fmt, height, width
):
  image = np.zeros((height, width, 3), np.uint8)
  image[: height // 2], image[height // 2 :] = (200, 40, 40), (40, 40, 200)
  file = tmp_path / name
  options = {'crf': '5', 'b': '4M', 'x265-params': 'log-level=none'}
  with av.open(str(file), 'w') as container:
    stream = container.add_stream(codec, rate=10, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
    for _ in range(4):
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with VideoReader(str(file)) as reader:
    frames = reader.read(np.array([0, 3])).astype(int)
  assert frames.shape == (2, height, width, 3)
  np.testing.assert_allclose(
    frames[:, 4 : height // 2 - 4].mean(axis=(1, 2)), [[200, 40, 40]] * 2, atol=6
  )
  np.testing.assert_allclose(
    frames[:, height // 2 + 4 :].mean(axis=(1, 2)), [[40, 40, 200]] * 2, atol=6
  )


def test_start_and_end_seconds_count_frames_from_there(tmp_path):
  file = str(write_video(tmp_path / 'x.mp4', 40))  # 10 frames per second
  with VideoReader(file, 1.35, 2.5) as reader:
    assert reader.frames == 11
    np.testing.assert_array_equal(numbers(reader.read(np.array([0, 10]))), [14, 24])
  with VideoReader(file, start=3.9) as reader:
    assert reader.frames == 1
  with VideoReader(file, end=0.2) as reader:
    assert reader.frames == 2
  with pytest.raises(DecodeError, match=r'no frame from 4.0 s .* lasts 3.900 s'):
    VideoReader(file, start=4.0)


def test_transform_sees_each_frame_once(tmp_path):
  seen = []

  def corner(frame):
    seen.append(frame.shape)
    return frame[:2, :3]

  with VideoReader(str(write_video(tmp_path / 'x.mp4'))) as reader:
    assert reader.read(np.array([3, 3, 1]), corner).shape == (3, 2, 3, 3)
  assert seen == [(48, 64, 3)] * 2


def test_far_frames_are_reached_by_seeking(tmp_path):
  images = np.random.default_rng(0).integers(0, 255, (240, 48, 64, 3), np.uint8)
  images[:, :24] = (np.arange(240, dtype=np.uint8))[:, None, None, None]
  file = str(write_images(tmp_path / 'x.mp4', images, crf='20'))
  with VideoReader(file) as reader:
    assert len(reader._runs([0, 2, 100, 101, 239])) == 3
    frames = reader.read(np.array([239, 0, 2, 101, 100]))
  levels = frames[:, 4:20].astype(float).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(levels, [239, 0, 2, 101, 100], atol=3)


def test_files_that_are_no_videos_are_refused_with_a_reason(tmp_path):
  target = write_video(tmp_path / 'secret.mp4')
  script = tmp_path / 'script.mp4'
  for content in (
    f"ffconcat version 1.0\nfile '{target}'\n",
    f'#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n',
    'words\n',
    '',
  ):
    script.write_text(content)
    with pytest.raises(DecodeError) as error:
      VideoReader(str(script))
    assert error.value.path == str(script)
    assert '\n' not in error.value.reason
  for name in (
    'missing.mp4',
    '',
    f'concat:{target}',
    f'file:{target}|x',
    'http://127.0.0.1:1/x.mp4',
  ):
    with pytest.raises(DecodeError):
      VideoReader(name if ':' in name else str(tmp_path / name))


def test_every_truncation_is_an_error_or_the_true_frames(tmp_path):
  file = write_video(tmp_path / 'x.mp4', movflags='faststart')
  content = file.read_bytes()
  refused = 0
  for size in np.linspace(0, len(content) - 1, 25, dtype=int):
    file.write_bytes(content[:size])
    try:
      with VideoReader(str(file)) as reader:
        np.testing.assert_array_equal(numbers(reader.read(np.arange(24))), np.arange(24))
    except DecodeError:
      refused += 1
  assert refused >= 23


def test_flipped_bytes_never_raise_anything_else(tmp_path, rng):
  file = write_video(tmp_path / 'x.mp4')
  content = np.frombuffer(file.read_bytes(), np.uint8)
  errors = 0
  for _ in range(150):
    damaged = content.copy()
    damaged[rng.integers(content.size, size=8)] ^= rng.integers(1, 255, 8, np.uint8)
    file.write_bytes(damaged.tobytes())
    try:
      with VideoReader(str(file)) as reader:
        assert reader.read(np.arange(min(24, reader.frames))).shape[0] > 0
    except DecodeError:
      errors += 1
  assert errors > 20


def test_frames_beyond_the_pixel_bound_are_refused(tmp_path, monkeypatch):
  file = str(write_video(tmp_path / 'x.mp4'))
  monkeypatch.setattr(decode, 'MAX_PIXELS', 64 * 48 - 1)
  with pytest.raises(DecodeError), VideoReader(file) as reader:
    reader.read(np.array([0]))


def test_errors_cross_process_borders():
  error = pickle.loads(pickle.dumps(DecodeError('x.mp4', 'broken')))
  assert (error.path, error.reason, str(error)) == ('x.mp4', 'broken', 'x.mp4: broken')
