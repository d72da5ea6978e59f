# SPDX-License-Identifier: Apache-2.0
"""Prepared videos: read by any thread or process, damage named, no TensorFlow anywhere."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from support.videos import config, write_dataset
from vivit_jax.config.schema import Task
from vivit_jax.data.pipeline import train_batches
from vivit_jax.data.prepare.build import build
from vivit_jax.data.prepare.encode import Encoding
from vivit_jax.data.prepare.shards import Shards, open_prepared
from vivit_jax.data.splits import open_split
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError

ROOT = Path(__file__).parent.parent.parent
TASK = Task(classes=(2,))


@pytest.fixture
def prepared(tmp_path):
  """Returns (source, target), with shards of several 64 KiB."""
  source = write_dataset(tmp_path / 'source', 4)
  rng = np.random.default_rng(0)
  for k in range(4):
    junk = rng.bytes(70_000)
    with (source / f'{k}.mp4').open('ab') as handle:  # a box that readers skip
      handle.write((len(junk) + 8).to_bytes(4, 'big') + b'free' + junk)
  build(source, tmp_path / 'target', Encoding(), 0.0)
  return source, tmp_path / 'target'


def shard(target):
  return target / 'videos/1.0.0/videos-train.array_record-00000-of-00001'


def test_batches_equal_those_of_the_loose_videos(prepared):
  source, target = prepared
  batches = [
    list(train_batches(open_split(c, 'train'), c, start_step=0, stop_step=2, rows=range(4)))
    for c in (
      config(root=str(source)),
      config(root=str(target)),
      config(root=str(target), workers=1),
    )
  ]
  for loose, *others in zip(*batches, strict=True):
    for other in others:
      for name in ('video', 'label', 'id'):
        np.testing.assert_array_equal(other[name], loose[name])
      assert other['failures'] == []


def test_threads_and_other_processes_read_the_same(prepared):
  source, target = prepared
  contents = open_prepared(target, 'train', TASK).contents
  expected = [(source / f'{k}.mp4').read_bytes() for k in range(4)]
  with ThreadPool(4) as pool:
    assert pool.map(contents.__getitem__, list(range(4)) * 10) == expected * 10
  again = pickle.loads(pickle.dumps(contents))
  assert [again[k] for k in range(4)] == expected
  assert len(pickle.dumps(contents)) < 2000  # no open reader went along
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    assert pool.map(contents.__getitem__, range(4)) == expected


def test_tensorflow_datasets_reads_it_by_itself(prepared):
  builder = tfds.builder_from_directory(prepared[1] / 'videos/1.0.0')
  source = builder.as_data_source('train')
  assert len(source) == 4
  assert source[2]['video'] == (prepared[0] / '2.mp4').read_bytes()
  assert builder.info.features['labels']['label'].names == ['a', 'b']


def test_a_shard_cut_off_or_missing_is_one_line_at_opening(prepared):
  file = shard(prepared[1])
  size = file.stat().st_size
  assert size > 3 * 2**16
  for cut in (size - 2**16, 2**16, 1000, 0):
    os.truncate(file, cut)
    with pytest.raises(DataError) as error:
      open_prepared(prepared[1], 'train', TASK)
    assert str(error.value) == (
      f'{file} has {cut:,} bytes, {size:,} were written: copy or build it again'
    )
  file.unlink()
  with pytest.raises(DataError, match='is missing'):
    open_prepared(prepared[1], 'train', TASK)


def test_a_cut_or_flipped_shard_is_named_with_its_record(prepared):
  source, target = prepared
  manifest = open_prepared(target, 'train', TASK)
  file, content = shard(target), shard(target).read_bytes()
  place = content.index((source / '2.mp4').read_bytes()[-60_000:-50_000])
  file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
  with pytest.raises(DecodeError, match=r'record 2 of .*train.array_record-00000') as e:
    manifest.contents[2]
  print(e.value)
  assert e.value.path == str(target / '2.mp4')
  assert '\n' not in str(e.value)
  assert manifest.contents[3] == (source / '3.mp4').read_bytes()
  for size in range(2**16, len(content), 2**16):
    file.write_bytes(content[:size])
    contents = Shards(target / 'videos/1.0.0', 'train', tuple('abcd'))
    for index in range(4):
      with pytest.raises(DecodeError, match=f'record {index} of '):
        contents[index]


def test_an_edited_manifest_of_shards_is_refused(prepared):
  rows = (prepared[1] / 'train.csv').read_text().splitlines(keepends=True)
  (prepared[1] / 'train.csv').write_text(''.join(rows[:-1]))
  with pytest.raises(DataError, match=r'train.csv was edited'):
    open_prepared(prepared[1], 'train', TASK)


def test_training_from_it_imports_no_tensorflow(prepared, tmp_path):
  """Also where it is installed, as it seems to be here."""
  (tmp_path / 'tensorflow').mkdir()
  (tmp_path / 'tensorflow/__init__.py').write_text(
    f"open({str(tmp_path / 'imported')!r}, 'w').close()\nraise ImportError('no tensorflow')\n"
  )
  program = f"""
import dataclasses, sys
from pathlib import Path

if __name__ == '__main__':
  from vivit_jax.config.schema import Clip, Config, Data, Evaluate, Model, Task, Train
  from vivit_jax.train.loop import train

  config = Config(
    task=Task(classes=(2,)),
    model=Model(layers=1, width=16, mlp_dim=16, heads=2),
    clip=Clip(frames=4, stride=2, height=32, width=32),
    data=Data(root={str(prepared[1])!r}),
    train=Train(batch_size=2, steps=2),
    evaluate=Evaluate(temporal_views=1, spatial_views=1, batch_size=2),
  )
  train(config, Path({str(tmp_path / 'run')!r}))
  assert 'tensorflow_datasets' in sys.modules
  assert 'tensorflow' not in sys.modules
"""
  (tmp_path / 'program.py').write_text(program)
  result = subprocess.run(
    [sys.executable, str(tmp_path / 'program.py')],
    env={
      **os.environ,
      'PYTHONPATH': f'{ROOT}:{tmp_path}',
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert not (tmp_path / 'imported').exists()
  fingerprint = open_prepared(prepared[1], 'validation', TASK).fingerprint
  assert fingerprint in (tmp_path / 'run/report.json').read_text()
