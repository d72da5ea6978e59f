# SPDX-License-Identifier: Apache-2.0
"""Manifests and videos on gs://, from a server on this machine, give what local ones give."""

import itertools
import os
import pickle
import sys

import gcsfs
import numpy as np
import pytest

from support.remote_service import Service
from support.videos import config, write_dataset
from vivit_jax.data.pipeline import train_batches
from vivit_jax.data.splits import evaluation_split, open_split, with_classes
from vivit_jax.data.storage import folder
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError

ROOT = 'gs://bucket/owner/name'


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
  """Returns (the server, the local folder with the same files)."""
  root = write_dataset(tmp_path_factory.mktemp('local') / 'data', 6)
  service = Service()
  service.files = {
    file.relative_to(root).as_posix(): file.read_bytes()
    for file in root.rglob('*')
    if file.is_file()
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('STORAGE_EMULATOR_HOST', service.address)
    patch.delenv('GOOGLE_APPLICATION_CREDENTIALS', raising=False)
    patch.setenv('NO_GCE_CHECK', 'true')
    yield service, root
  gcsfs.GCSFileSystem.clear_instance_cache()
  service.stop()


def batches(root, workers=0):
  c = config(root=str(root), workers=workers)
  stream = train_batches(open_split(c, 'train'), c, start_step=0, stop_step=3, rows=range(4))
  try:
    return list(itertools.islice(stream, 3))
  finally:
    stream.close()


@pytest.mark.parametrize('workers', [0, 1])
def test_batches_equal_those_of_local_files_one_request_a_clip(bucket, workers):
  service, local = bucket
  service.content.clear()
  remote = batches(ROOT, workers)
  for a, b in zip(remote, batches(local), strict=True):
    assert a['failures'] == b['failures'] == []
    for name in ('video', 'label', 'id'):
      np.testing.assert_array_equal(a[name], b[name])
  assert 'tensorflow' not in sys.modules
  clips = [name for name, _ in service.content if name.endswith('.mp4')]
  # 12 clips were asked for; what was read ahead beyond them is as much again at most.
  assert 12 <= len(clips) <= 24


def test_a_video_is_one_request_for_all_of_it(bucket):
  service, local = bucket
  contents = open_split(config(root=ROOT), 'train').contents
  service.content.clear()
  asked = service.asked = []
  assert contents[2] == (local / '2.mp4').read_bytes()
  assert pickle.loads(pickle.dumps(contents))[3] == (local / '3.mp4').read_bytes()
  assert [name for name, _ in service.content] == ['2.mp4', '3.mp4']
  assert len(asked) == 2, asked


def test_validation_stands_in_for_a_test_split_that_is_not_there(bucket):
  c = with_classes(config(root=ROOT))
  with pytest.raises(
    DataError, match=r'test\.csv does not exist: .* has train\.csv and validation\.csv'
  ):
    open_split(c, 'test')
  assert evaluation_split(c) == 'validation'
  manifest = open_split(c, evaluation_split(c))
  assert manifest.split == 'validation'
  assert manifest.videos[1].path == f'{ROOT}/1.mp4'
  assert manifest.fingerprint == open_split(config(root=str(bucket[1])), 'validation').fingerprint


def test_what_is_not_there_is_named_in_one_line(bucket):
  service, _ = bucket
  content = service.files.pop('4.mp4')
  contents = open_split(config(root=ROOT), 'train').contents
  with pytest.raises(DecodeError, match=f'^{ROOT}/4.mp4: cannot be read from Cloud Storage: gone$'):
    contents[4]
  service.files['4.mp4'] = content
  for root in ('gs://bucket/owner/nam', 'gs://other/x'):
    with pytest.raises(DataError, match=f'^{root}/classes/label.txt does not exist') as error:
      open_split(config(root=root), 'train')
    assert '\n' not in str(error.value)


def test_refused_access_is_one_line(bucket):
  service, _ = bucket
  service.status = 403
  try:
    with pytest.raises(DataError, match=f'{ROOT}/prepared.json cannot be read: ') as error:
      open_split(config(root=ROOT), 'train')
  finally:
    service.status = None
  assert '\n' not in str(error.value)
  print(error.value)


def test_shards_are_to_be_copied_first(bucket):
  service, _ = bucket
  service.files['prepared.json'] = b'{}'
  try:
    with pytest.raises(
      DataError, match=f'copy the folder first, e.g. gcloud storage cp -r {ROOT} '
    ):
      open_split(config(root=ROOT), 'train')
  finally:
    del service.files['prepared.json']


def test_without_gcsfs_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  with pytest.raises(DataError, match=r'needs gcsfs: pip install "vivit_jax\[hub\]"'):
    folder(ROOT)


def test_local_folders_stay_local(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert folder('data') == tmp_path / 'data'
  assert str(folder('~/x')) == os.path.expanduser('~/x')
