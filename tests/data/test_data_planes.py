# SPDX-License-Identifier: Apache-2.0
"""Crops from planes show what crops of whole RGB frames show, and what the formulas say."""

import av
import cv2
import numpy as np
import pytest

from support.videos import write_images
from vivit_jax.data.augmentation.crop import RandomCrop, Scaled, SpatialCrops
from vivit_jax.data.video import frames as planes
from vivit_jax.data.video import reader as decode
from vivit_jax.data.video.frames import Box, resize
from vivit_jax.data.video.reader import VideoReader

NOT_SAID, BT709, BT601, BT2020 = 2, 1, 5, 9
LIMITED, FULL = 1, 2
# Weights of red and blue in brightness; players take BT.601 where a file does not say.
WEIGHTS = {
  NOT_SAID: (0.299, 0.114),
  BT601: (0.299, 0.114),
  BT709: (0.2126, 0.0722),
  BT2020: (0.2627, 0.0593),
}
CROPS = [
  RandomCrop(224, 224, Scaled(256, 1.0, 1.1), 0.31, 0.77, flip=True),
  RandomCrop(112, 96, Scaled(112, 1.0, 1.0), 0.999, 0.5, flip=False),
  SpatialCrops(224, 224, 3),
  SpatialCrops(224, 224, 1, short_side=256),
  SpatialCrops(64, 64, 3),
  SpatialCrops(320, 256, 2),  # larger than the box
]


def smooth(height, width, form='yuv420p', colorspace=BT709, color_range=LIMITED):
  """A frame without edges, with strong colors."""
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  image = 128 + 90 * np.stack([np.sin(5 * x + y), np.cos(4 * y - x), np.sin(3 * x - 4 * y)], -1)
  frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format='rgb24').reformat(format=form)
  frame.colorspace, frame.color_range = colorspace, color_range
  return frame


def formula(frame, colorspace, full):
  """Returns a frame as RGB by the definition of its colors, in floating point."""
  luma, blue, red = (
    np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].astype(float)
    for p in frame.planes
  )
  shape = luma.shape
  blue, red = (c.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]] - 128 for c in (blue, red))
  if not full:
    luma, blue, red = (luma - 16) * 255 / 219, blue * 255 / 224, red * 255 / 224
  kr, kb = WEIGHTS[colorspace]
  r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
  return np.stack([r, (luma - kr * r - kb * b) / (1 - kr - kb), b], -1).clip(0, 255)


@pytest.mark.parametrize('form', planes.FORMATS)
@pytest.mark.parametrize('colorspace', WEIGHTS)
@pytest.mark.parametrize('color_range', [0, LIMITED, FULL])
def test_matrix_and_range_are_those_of_the_frame(form, colorspace, color_range):
  frame = smooth(240, 320, form, colorspace, color_range)
  found = planes.PlaneCutter().cut(frame, [Box(10, 20, 200, 200)], 160, 160)[0]
  full = color_range == FULL or form == 'yuvj420p'
  expected = formula(frame, colorspace, full)[10:210, 20:220]
  difference = found - cv2.resize(expected, (160, 160))
  assert np.abs(difference).max() <= 6
  # Conversion rounds down, here and in whole frames alike.
  assert np.abs(difference.mean(axis=(0, 1)) + 0.8).max() < 0.9
  wrong = formula(frame, BT709 if colorspace != BT709 else BT601, full)[10:210, 20:220]
  assert np.abs(found - cv2.resize(wrong, (160, 160))).max() > 8  # it would be noticed


@pytest.mark.parametrize('size', [(256, 340), (255, 341), (240, 427), (721, 1281)])
@pytest.mark.parametrize('crop', CROPS)
def test_odd_boxes_and_frames_of_any_scale(size, crop):
  frame = smooth(*size)
  boxes = crop.boxes(*size)
  assert planes.can_cut(frame, boxes, crop.height, crop.width)
  found = planes.PlaneCutter().cut(frame, boxes, crop.height, crop.width)
  assert found.shape[1:] == (crop.height, crop.width, 3)
  exact = formula(frame, BT709, full=False)
  for box, image in zip(boxes, found, strict=True):
    part = exact[box.top : box.top + box.height, box.left : box.left + box.width]
    difference = image - cv2.resize(part, (crop.width, crop.height), interpolation=cv2.INTER_AREA)
    assert np.abs(difference).max() <= 9  # colors may lie half a pixel off
    assert np.abs(difference.mean(axis=(0, 1)) + 1).max() < 1.4
  if not (size[0] % 2 or size[1] % 2):  # whole frames of odd size are rounded otherwise
    whole = crop(frame.to_ndarray(format='rgb24'))
    assert np.abs(crop.finish(found) - whole.astype(float)).mean() < 1.3
    assert np.abs((crop.finish(found) - whole.astype(float)).mean()) < 0.2


def test_one_cutter_follows_frames_that_change():
  cutter, box = planes.PlaneCutter(), [Box(0, 0, 100, 100)]
  frames = [
    smooth(100, 100),
    smooth(120, 100, colorspace=BT601),
    smooth(100, 140, 'yuvj420p'),
    smooth(100, 100, color_range=FULL),
  ]
  for frame in [*frames, *frames]:
    expected = planes.PlaneCutter().cut(frame, box, 64, 64)
    np.testing.assert_array_equal(cutter.cut(frame, box, 64, 64), expected)


@pytest.mark.parametrize('form', ['yuv420p10le', 'yuv444p', 'gray', 'rgb24', 'yuv422p', 'nv12'])
def test_other_formats_are_converted_as_whole_frames(form):
  assert not planes.can_cut(smooth(100, 100, form), [Box(0, 0, 100, 100)], 64, 64)


def test_small_boxes_and_odd_results_are_left_to_it_too():
  frame = smooth(100, 100)
  assert planes.can_cut(frame, [Box(0, 0, 32, 32)], 64, 64)
  assert not planes.can_cut(frame, [Box(0, 0, 32, 32), Box(0, 0, 31, 32)], 64, 64)
  assert not planes.can_cut(frame, [Box(0, 0, 32, 32)], 63, 64)


@pytest.mark.parametrize('factor', [2, 3, 4.4])
def test_blocks_before_bilinear_keep_places_and_means(factor):
  frame = smooth(round(64 * factor) + 1, round(96 * factor)).to_ndarray(format='rgb24')
  expected = cv2.resize(frame, (96, 64), interpolation=cv2.INTER_AREA).astype(float)
  assert np.abs(resize(frame, 64, 96) - expected).max() <= 3


def moving(frames, height=64, width=96):
  """Images of texture that moves, so that frames refer to each other."""
  noise = np.random.default_rng(0).integers(0, 255, (height, width + 2 * frames, 3), np.uint8)
  texture = cv2.GaussianBlur(noise, (7, 7), 2)
  return np.stack([texture[:, 2 * k : 2 * k + width] for k in range(frames)])


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('x.mp4', 'libx264', {}),
    ('x.mkv', 'libx264', {'b_strategy': '0', 'bf': '4', 'b-pyramid': 'strict'}),
    ('x.mp4', 'libx264', {'x264-params': 'tff=1'}),  # interlaced
    ('x.mkv', 'mpeg4', {'bf': '2'}),
    ('x.ts', 'mpeg2video', {'bf': '2'}),
    ('x.webm', 'libvpx-vp9', {}),
  ],
)
def test_frames_left_out_change_no_other(tmp_path, monkeypatch, name, codec, options):
  file = str(write_images(tmp_path / name, moving(60), codec, g='30', crf='25', **options))
  wanted = np.array([3, 6, 8, 20, 21, 35, 44, 59])
  with VideoReader(file) as reader:
    found = reader.read(wanted)
    decoded = sum(1 for _ in reader._frames(0, set()))
  monkeypatch.setattr(decode, 'SKIPPING', ())
  with VideoReader(file) as reader:
    np.testing.assert_array_equal(found, reader.read(wanted))
    assert sum(1 for _ in reader._frames(0, set())) == 60
  plain = codec in ('libx264', 'mpeg4', 'mpeg2video') and 'x264-params' not in options
  assert (decoded < 50) == plain
