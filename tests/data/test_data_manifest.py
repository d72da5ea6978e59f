# SPDX-License-Identifier: Apache-2.0
"""Manifests: what they say reaches the videos, and every mistake in them is one line."""

import dataclasses

import pytest

from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import Video, read_manifest
from vivit_jax.errors import DataError

VERB = Task(heads=('verb',), classes=(2,))


@pytest.fixture
def root(tmp_path):
  (tmp_path / 'classes').mkdir()
  (tmp_path / 'classes' / 'verb.txt').write_text('open\nclose\n')
  (tmp_path / 'classes' / 'noun.txt').write_text('door\nbox\nlid\n')
  return tmp_path


def write(root, *lines):
  (root / 'train.csv').write_text('\n'.join(lines) + '\n')


def test_rows_become_videos_with_paths_times_and_class_ids(root):
  write(root, 'noun,path,start,end,verb', 'box,a/x.mp4,1.5,3,close', 'door,"y, z.mp4",,,open')
  manifest = read_manifest(root, 'train', Task(heads=('verb', 'noun'), classes=(2, 3)))
  assert manifest.videos == (
    Video(str(root / 'a/x.mp4'), 1.5, 3.0, (1, 1)),
    Video(str(root / 'y, z.mp4'), None, None, (0, 0)),
  )
  assert manifest.class_names == {'verb': ('open', 'close'), 'noun': ('door', 'box', 'lid')}


def test_tags_may_be_none_one_or_many(root):
  write(root, 'path,noun', 'x.mp4,lid|door', 'y.mp4,', 'z.mp4, box ')
  task = Task(kind='multi_label', heads=('noun',), classes=(3,))
  manifest = read_manifest(root, 'train', task)
  assert [v.labels for v in manifest.videos] == [(0, 2), (), (1,)]
  assert manifest.multi_label


def test_fingerprint_changes_with_rows_and_with_class_names_only(root):
  write(root, 'path,verb', 'x.mp4,open')
  first = read_manifest(root, 'train', VERB).fingerprint
  assert read_manifest(str(root), 'train', VERB).fingerprint == first
  write(root, 'path,verb', 'x.mp4,close')
  second = read_manifest(root, 'train', VERB).fingerprint
  (root / 'classes' / 'verb.txt').write_text('close\nopen\n')
  assert len({first, second, read_manifest(root, 'train', VERB).fingerprint}) == 3


@pytest.mark.parametrize(
  'lines, said',
  [
    (['path,verb', '/etc/x.mp4,open'], ["'/etc/x.mp4'", 'relative']),
    (['path,verb', 'a/../../x.mp4,open'], ["'a/../../x.mp4'", 'inside']),
    (['path,verb', 'http://x/y.mp4,open'], ["'http://x/y.mp4'", 'URL']),
    (['path,verb', ',open'], ['path']),
    (['path,verb', 'x.mp4,opne'], ["verb='opne'", "did you mean 'open'"]),
    (['path,verb', 'x.mp4'], ['1 cells']),
    (['path,verb', 'x.mp4,open,1'], ['3 cells']),
    (['path,start,verb', 'x.mp4,soon,open'], ["start='soon'", 'seconds']),
    (['path,start,verb', 'x.mp4,nan,open'], ["start='nan'", 'seconds']),
    (['path,start,end,verb', 'x.mp4,3,2,open'], ['end=2.0', 'start=3.0']),
  ],
)
def test_a_bad_row_is_refused_by_file_line_and_value(root, lines, said):
  write(root, *lines)
  with pytest.raises(DataError) as error:
    read_manifest(root, 'train', VERB)
  message = str(error.value)
  assert '\n' not in message
  for part in [f'{root / "train.csv"}:2', *said]:
    assert part in message


@pytest.mark.parametrize(
  'lines, said',
  [
    (['path,vreb', 'x.mp4,open'], ["column 'verb'", "did you mean 'vreb'"]),
    (['path,verb,verb', 'x.mp4,open,open'], ['twice']),
    (['path,verb'], ['no videos']),
    ([''], ['path']),
    (['path,verb', '"x.mp4,open'], ['CSV']),
  ],
)
def test_a_bad_file_is_refused_by_name(root, lines, said):
  write(root, *lines)
  with pytest.raises(DataError) as error:
    read_manifest(root, 'train', VERB)
  for part in ['train.csv', *said]:
    assert part in str(error.value)


def test_class_count_must_match_and_the_override_is_named(root):
  write(root, 'path,verb', 'x.mp4,open')
  task = dataclasses.replace(VERB, classes=(400,))
  with pytest.raises(
    DataError, match=r'has 2 classes .* expects 400.*--config.task.classes="\(2,\)"'
  ):
    read_manifest(root, 'train', task)


@pytest.mark.parametrize('names, said', [('a\na\n', ':2 repeats'), ('a\n\nb\n', ':2 is empty')])
def test_class_files_have_one_name_a_line(root, names, said):
  (root / 'classes' / 'verb.txt').write_text(names)
  with pytest.raises(DataError, match=said):
    read_manifest(root, 'train', VERB)


def test_missing_and_binary_files_are_named(root):
  with pytest.raises(DataError, match=r'train.csv does not exist'):
    read_manifest(root, 'train', VERB)
  (root / 'train.csv').write_bytes(b'path,verb\n\xff\xfe\n')
  with pytest.raises(DataError, match=r'train.csv is not UTF-8'):
    read_manifest(root, 'train', VERB)


@pytest.mark.parametrize(
  'content',
  [
    b'\xef\xbb\xbfpath,verb\r\nx.mp4,open\r\n',  # as spreadsheets save it
    'path,verb\n\u202egpm.4\u0301\U0001f3a5.mp4,open\n'.encode(),
    b'path,verb\n' + b'a' * 100_000 + b'.mp4,open\n',
  ],
)
def test_unusual_text_is_still_a_manifest(root, content):
  (root / 'train.csv').write_bytes(content)
  assert len(read_manifest(root, 'train', VERB).videos) == 1


def test_damaged_manifests_are_read_or_refused_in_one_line(root, rng):
  whole = b'path,start,end,verb\na.mp4,,,open\n"b, c.mp4",1,2.5,close\n' * 3
  refused = []
  for content in [
    *(b'path,verb\n' + text + b',open\n' for text in (b'x\0.mp4', b'x' * 200_000, b'\xed\xa0\x80')),
    *(_damaged(whole, rng) for _ in range(400)),
  ]:
    (root / 'train.csv').write_bytes(content)
    try:
      assert read_manifest(root, 'train', VERB).videos
    except DataError as error:
      refused.append(str(error))
  assert len(refused) > 200
  assert not [line for line in refused if '\n' in line or len(line) > 1000]


def _damaged(content, rng):
  data = bytearray(content)
  for place in rng.integers(len(data), size=int(rng.integers(1, 6))):
    data[place] = int(rng.choice([0, 10, 13, 34, 44, 0x85, 0xE2, int(rng.integers(256))]))
  return bytes(data)
