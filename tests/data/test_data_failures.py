# SPDX-License-Identifier: Apache-2.0
"""Failures: each video listed once, all counted, too many refused."""

import os

import pytest

from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.errors import DataError


def manifest(videos):
  rows = tuple(Video(f'/v/{k}.mp4', None, None, (0,)) for k in range(videos))
  return Manifest('train', rows, {'label': ('a',)}, '0' * 16, False)


def test_each_path_is_listed_once_and_every_failure_counted(tmp_path):
  failures = Failures(manifest(10), 0.2, tmp_path)
  failures.add([])
  assert not (tmp_path / 'skipped.csv').exists()
  failures.add([('/v/1.mp4', 'broken, twice'), ('/v/1.mp4', 'gone')])
  assert (failures.count, failures.reasons) == (2, {'/v/1.mp4': 'broken, twice'})
  resumed = Failures(manifest(10), 0.2, tmp_path)
  resumed.add([('/v/1.mp4', 'broken, twice'), ('/v/2.mp4', 'gone')])
  text = 'path,reason\n/v/1.mp4,"broken, twice"\n/v/2.mp4,gone\n'
  assert (tmp_path / 'skipped.csv').read_text() == text


def test_more_than_the_accepted_fraction_stops(tmp_path):
  failures = Failures(manifest(10), 0.2, tmp_path)
  failures.add([('/v/1.mp4', 'broken'), ('/v/2.mp4', 'gone')])
  with pytest.raises(
    DataError, match=r'3 of the 10 .*max_bad_fraction=0.2; the first is /v/1.mp4: bro'
  ):
    failures.add([('/v/3.mp4', 'gone')])
  assert (tmp_path / 'skipped.csv').read_text().endswith('/v/3.mp4,gone\n')


@pytest.mark.parametrize('content', [b'path,reason\n\xff\xfe,x\n', b'a' * 200_000, None])
def test_a_list_that_cannot_be_read_is_one_line(tmp_path, content):
  file = tmp_path / 'skipped.csv'
  if content is None:
    os.mkfifo(file)
  else:
    file.write_bytes(content)
  with pytest.raises(DataError) as error:
    Failures(manifest(10), 0.2, tmp_path)
  assert str(error.value).startswith(f'{file} is damaged (')
  assert str(error.value).endswith('): delete it')
  assert '\n' not in str(error.value)
