# SPDX-License-Identifier: Apache-2.0
"""Decoding: exactly the frames asked for, and nothing that a hostile or damaged file wants."""

import pickle

import numpy as np
import pytest
from videos import numbers, write_images, write_video

from vivit_jax.data import decode
from vivit_jax.data.decode import DecodeError, VideoReader


@pytest.mark.parametrize(
  'name, codec',
  [
    ('x.mp4', 'libx264'),
    ('x.mkv', 'libx264'),
    ('x.ts', 'libx264'),
    ('x.webm', 'libvpx-vp9'),
    ('x.avi', 'mpeg4'),
  ],
)
def test_any_order_gap_and_duplicate_gives_the_frames_asked_for(tmp_path, name, codec):
  file = write_video(tmp_path / name, 40, codec=codec)
  with VideoReader(str(file)) as reader:
    assert reader.frames == 40
    for wanted in ([0], [39], [12, 11, 13], [5, 5, 38, 0], [37, 1], list(range(40))):
      frames = reader.read(np.array(wanted))
      assert frames.shape == (len(wanted), 48, 64, 3)
      assert frames.dtype == np.uint8
      np.testing.assert_array_equal(numbers(frames), wanted)


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


def test_files_that_are_not_videos_are_refused_with_path_and_reason(tmp_path):
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
