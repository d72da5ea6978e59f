# SPDX-License-Identifier: Apache-2.0
"""Frame times from a file's tables or from the cache equal those from its packets."""

import itertools
import os
import struct

import av
import numpy as np
import pytest

from support.videos import numbers, write_video
from vivit_jax.data.video import kept_times, timeline
from vivit_jax.data.video.reader import DecodeError, VideoReader

FILES = {  # (name, codec, options, whether the file has tables of all frames)
  'B-frames': ('x.mp4', 'libx264', {'bf': '3'}, True),
  'no B-frames': ('x.mov', 'libx264', {'bf': '0'}, True),
  'H.265': ('x.mp4', 'libx265', {'x265-params': 'log-level=none'}, True),
  'MPEG-4': ('x.mp4', 'mpeg4', {'bf': '2'}, True),
  'every frame a key': ('x.mp4', 'libx264', {'g': '1'}, True),
  'Matroska': ('x.mkv', 'libx264', {}, False),
  'VP9': ('x.webm', 'libvpx-vp9', {}, False),
  'counted': ('x.avi', 'libx264', {}, False),
}


@pytest.fixture(autouse=True)
def tables_of_short_files(monkeypatch):
  """The tables of short files are read too."""
  monkeypatch.setattr(timeline, 'FEW', 0)


def by_packets(file):
  """Returns what all packets of a file say."""
  with av.open(str(file)) as container:
    stream = container.streams.video[0]
    return timeline.find(container, stream, str(file), None, None, lambda: 24)


def parts(file):
  """Returns (times, keys) as a reader has them."""
  with VideoReader(str(file)) as reader:
    return reader._times.tolist(), reader._keys.tolist()


@pytest.fixture
def no_packets(monkeypatch):
  """Reading all packets fails."""

  def refuse(*args):
    raise AssertionError('all packets were read')

  monkeypatch.setattr(timeline, '_from_packets', refuse)


@pytest.mark.parametrize('kind', FILES)
def test_times_and_keys_are_those_of_the_packets(kind, tmp_path, monkeypatch):
  name, codec, options, tables = FILES[kind]
  file = write_video(tmp_path / name, codec=codec, **options)
  expected = by_packets(file)
  read = []
  real = timeline._from_packets
  monkeypatch.setattr(timeline, '_from_packets', lambda *a: read.append(a) or real(*a))
  found = parts(file)
  assert found == (expected.times.tolist(), expected.keys.tolist())
  assert bool(read) == (not tables)
  assert len(found[0]) == 24


def test_fragments_and_edits_are_read_by_packets(tmp_path):
  source = write_video(tmp_path / 'x.mp4')
  with av.open(str(source)) as container:
    stream = container.streams.video[0]
    options = {'movflags': 'frag_keyframe+empty_moov'}
    with av.open(str(tmp_path / 'fragments.mp4'), 'w', container_options=options) as target:
      copy = target.add_stream_from_template(stream)
      for packet in container.demux(stream):
        if packet.size:
          packet.stream = copy
          target.mux(packet)
  content = bytearray(source.read_bytes())
  at = content.find(b'elst') + 4
  struct.pack_into('>I', content, at + 12, struct.unpack_from('>I', content, at + 12)[0] + 3072)
  (tmp_path / 'edited.mp4').write_bytes(content)  # begins 3 frames later
  for name, frames in (('fragments.mp4', 24), ('edited.mp4', 21)):
    expected = by_packets(tmp_path / name)
    assert parts(tmp_path / name) == (expected.times.tolist(), expected.keys.tolist())
    assert len(expected.times) == frames
  with VideoReader(str(tmp_path / 'edited.mp4')) as reader:
    np.testing.assert_array_equal(numbers(reader.read(np.arange(21))), np.arange(3, 24))


def test_an_index_that_lies_about_keys_changes_no_frame(tmp_path):
  source = write_video(tmp_path / 'x.mp4', 40)
  content = source.read_bytes()
  source.write_bytes(content.replace(b'stss', b'free'))  # a table of them that is missing
  with VideoReader(str(source)) as reader:
    assert len(reader._keys) == 40
    for wanted in ([20], [39, 3], [17, 18]):
      np.testing.assert_array_equal(numbers(reader.read(np.array(wanted))), wanted)
    assert len(reader._keys) == 4


def _claims(content, samples):
  for box, at, values in (
    (b'stsz', 8, (1, samples)),
    (b'stsc', 8, (1, 1, samples, 1)),
    (b'stts', 8, (1, samples, 512)),
  ):
    struct.pack_into(f'>{len(values)}I', content, content.find(box) + at, *values)
  return bytes(content)


@pytest.mark.parametrize(
  'samples, reason',
  [
    (2 * 10**7, 'too large: its index claims 20,000,000 samples'),
    (10**8, 'truncated: 0 of 100000000 frames'),
  ],
)
def test_a_huge_index_is_refused(tmp_path, samples, reason):
  content = bytearray(write_video(tmp_path / 'x.mp4').read_bytes())
  with pytest.raises(DecodeError, match=reason):
    VideoReader('x.mp4', content=_claims(content, samples))


def test_samples_beyond_the_end_of_the_file_are_truncation(tmp_path):
  content = bytearray(write_video(tmp_path / 'x.mp4').read_bytes())
  at = content.find(b'stco') + 12
  struct.pack_into('>I', content, at, len(content) - 100)
  with pytest.raises(DecodeError, match='truncated'):
    VideoReader('x.mp4', content=bytes(content))


@pytest.fixture
def large(monkeypatch, tmp_path):
  """Every file counts as large, and the cache is a folder of this test."""
  monkeypatch.setattr(kept_times, 'LEAST', 0)
  monkeypatch.setattr(kept_times, '_told', False)
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.mark.parametrize('kind', ['VP9', 'counted'])
def test_times_are_kept_until_the_file_changes(kind, tmp_path, large, request):
  name, codec, options, _ = FILES[kind]
  file = write_video(tmp_path / name, codec=codec, **options)
  first = parts(file)
  (kept,) = large.rglob('*.npz')
  written = kept.read_bytes()
  request.getfixturevalue('no_packets')
  assert parts(file) == first
  with VideoReader(str(file), start=1.0) as reader:
    np.testing.assert_array_equal(numbers(reader.read(np.array([3, 0]))), [13, 10])
  assert kept.read_bytes() == written
  os.utime(file, ns=(0, 0))
  with pytest.raises(AssertionError, match='all packets'):
    parts(file)


@pytest.mark.parametrize('damage', [b'', b'PK\3\4 nothing', None])
def test_what_was_kept_is_made_anew_where_it_fits_no_more(damage, tmp_path, large):
  file = write_video(tmp_path / 'x.mkv')
  first = parts(file)
  (kept,) = large.rglob('*.npz')
  if damage is None:
    write_video(file, 12)
  else:
    kept.write_bytes(damage)
  expected = first if damage is not None else by_packets(file).times.tolist()
  found = parts(file)
  assert (found if damage is not None else found[0]) == expected
  assert np.load(kept)['times'].tolist() == found[0]


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, large, capfd):
  large.write_text('a file stands here')
  file = write_video(tmp_path / 'x.mkv')
  found = [parts(file) for _ in range(3)]
  assert all(a == b for a, b in itertools.pairwise(found))
  said = capfd.readouterr().err
  assert said.count('frame times cannot be kept') == 1
  assert str(large) in said
