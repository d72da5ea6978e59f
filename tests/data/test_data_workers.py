# SPDX-License-Identifier: Apache-2.0
"""Decoding processes that crash, hang or are killed cost a video or nothing, never the run."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from support.bad_contents import Bad
from support.streams import assert_equal, gone, worker_pids
from support.videos import config, write_dataset
from vivit_jax.data import pool
from vivit_jax.data.bench import Files, delayed
from vivit_jax.data.buffers import Buffers
from vivit_jax.data.decoders import automatic
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.pipeline import evaluation_batches, train_batches
from vivit_jax.distributed import hosts
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch
from vivit_jax.errors import DataError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Seven videos."""
  return write_dataset(tmp_path_factory.mktemp('workers') / 'data', 7)


def manifest_of(root, settings, split='train', **bad):
  """Returns the videos as contents, some of them bad; without, as files."""
  manifest = read_manifest(root, split, settings.task)
  files = Files(tuple(video.path for video in manifest.videos))
  return dataclasses.replace(manifest, contents=Bad(files, **bad)) if bad else manifest


def batches(root, workers, start=0, stop=3, rows=range(4), timeout=30.0, **bad):
  settings = config(batch_size=4, workers=workers, decode_timeout_seconds=timeout)
  manifest = manifest_of(root, settings, **bad)
  return list(train_batches(manifest, settings, start_step=start, stop_step=stop, rows=rows))


def as_if_unreadable(root, tmp_path, *indices):
  """Returns the batches of a copy in which these videos are empty files, read by threads."""
  copy = write_dataset(tmp_path / 'copy', 7)
  for index in indices:
    (copy / f'{index}.mp4').write_bytes(b'')
  return batches(copy, 0)


def reasons(stream):
  return {(path.rpartition('/')[2], reason) for b in stream for path, reason in b['failures']}


def assert_same_examples(stream, reference):
  """Compares all but the reasons for failures."""
  names = [
    [[p.rpartition('/')[2] for p, _ in b['failures']] for b in s] for s in (stream, reference)
  ]
  assert names[0] == names[1]
  assert_equal(*([{**b, 'failures': []} for b in s] for s in (stream, reference)))


def test_videos_that_crash_their_decoder_are_replaced(root, tmp_path):
  reference = as_if_unreadable(root, tmp_path, 2, 5)
  bad = {'crash': (2,), 'leave': (5,)}
  for workers in (1, 3):
    stream = batches(root, workers, **bad)
    assert_same_examples(stream, reference)
    assert reasons(stream) == {
      ('2.mp4', 'the decoder crashed with signal 11 (SIGSEGV)'),
      ('5.mp4', 'the decoder ended with exit status 3'),
    }
  parts = [batches(root, 2, start=2, rows=rows, **bad) for rows in ([0], [1, 2, 3])]
  for k, batch in enumerate(reference[2:]):
    joined = np.concatenate([part[k]['video'] for part in parts])
    np.testing.assert_array_equal(joined, batch['video'])


def test_a_video_at_which_the_decoder_hangs_is_given_up(root, tmp_path):
  stream = batches(root, 2, stop=2, timeout=1.0, hang=(2,))
  reference = as_if_unreadable(root, tmp_path, 2)[:2]
  assert_same_examples(stream, reference)
  assert reasons(stream) == {('2.mp4', 'took longer than config.data.decode_timeout_seconds=1 s')}


def test_evaluation_leaves_out_what_crashes_a_decoder(root):
  settings = config(workers=2)
  manifest = manifest_of(root, settings, 'validation', crash=(0, 6))
  stream = list(
    evaluation_batches(manifest, settings, temporal_views=2, spatial_views=3, batch_size=5)
  )
  ids = np.concatenate([b['id'] for b in stream])
  mask = np.concatenate([b['mask'] for b in stream])
  np.testing.assert_array_equal(ids, [*np.repeat(np.arange(7), 6), -1, -1, -1])
  np.testing.assert_array_equal(np.unique(ids[mask]), [1, 2, 3, 4, 5])
  assert not np.concatenate([b['video'] for b in stream])[~mask].any()
  assert [path.rpartition('/')[2] for b in stream for path, _ in b['failures']] == [
    '0.mp4',
    '6.mp4',
  ]


def test_killed_workers_are_replaced_and_nothing_changes(root):
  reference = batches(root, 0, stop=24)
  settings = config(workers=2)
  manifest = manifest_of(root, settings)
  stream = train_batches(manifest, settings, start_step=0, stop_step=24, rows=range(4))
  found, seen = [], set()
  for k, batch in enumerate(stream):
    found.append(batch)
    if k in (5, 11):
      pids = worker_pids(os.getpid())
      seen.update(pids)
      os.kill(pids[0], signal.SIGKILL)
      time.sleep(0.1)
  assert_equal(found, reference)
  assert len(seen) >= 3
  assert gone(list(seen))


def test_processes_are_replaced_when_they_are_old(root, monkeypatch):
  monkeypatch.setattr('vivit_jax.data.pool.LIFETIME', 10)
  settings = config(workers=2)
  manifest = manifest_of(root, settings)
  found, seen = [], set()
  for batch in train_batches(manifest, settings, start_step=0, stop_step=16, rows=range(4)):
    found.append(batch)
    seen.update(worker_pids(os.getpid()))
  assert_equal(found, batches(root, 0, stop=16))
  assert len(seen) > 2


def test_what_a_reader_raises_ends_the_run_with_its_type(root):
  with pytest.raises(KeyError, match='no video 3') as error:
    batches(root, 2, raises=(3,))
  assert 'bad_contents.py' in ''.join(error.value.__notes__)


def test_processes_that_cannot_start_are_one_line(root, capfd):
  settings = config(workers=1)
  manifest = dataclasses.replace(manifest_of(root, settings), contents=Unknown())
  with pytest.raises(DataError, match=r'cannot be started .* ended with exit status 1'):
    next(train_batches(manifest, settings, start_step=0, stop_step=2, rows=range(4)))
  assert 'Unknown' in capfd.readouterr().err


class Unknown:
  """Contents that another process cannot make."""

  def __reduce__(self):
    return (int, ('Unknown',))

  def __getitem__(self, index):
    raise AssertionError


def test_videos_are_read_while_others_are_decoded(root):
  # Eight at a time: as one after the other, 64 of them would take 12.8 s.
  settings = config(workers=1)
  manifest = delayed(manifest_of(root, settings), 0.2)
  stream = train_batches(manifest, settings, start_step=0, stop_step=16, rows=range(4))
  next(stream)
  began = time.monotonic()
  rest = list(stream)
  seconds = time.monotonic() - began
  assert_equal(rest, batches(root, 0, start=1, stop=16))
  assert seconds < 9


def test_workers_import_neither_jax_nor_grain():
  program = (
    'import sys; from vivit_jax.data import jobs, worker; print({*sys.modules} & {"jax", "grain"})'
  )
  out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert out.stdout == 'set()\n'


def test_a_batch_that_is_looked_at_never_changes(root):
  # What list() keeps, and what JAX reads late.
  settings = config(workers=2)
  manifest = manifest_of(root, settings)
  mesh = make_mesh(None)
  kept, copies = [], []
  for batch in train_batches(manifest, settings, start_step=0, stop_step=30, rows=range(8)):
    copies.append(batch['video'].copy())
    kept.append(shard_batch(mesh, batch['video']))
  for array, copy in zip(kept, copies, strict=True):
    np.testing.assert_array_equal(np.asarray(array), copy)


def test_buffers_are_reused_once_their_arrays_are_gone():
  buffers = Buffers((8, 1, 8, 8, 3))
  number, video = buffers.take()
  video[:] = 7
  on_device = shard_batch(make_mesh(None), video)
  view = video[3:, ..., 0].T
  del video
  other, _ = buffers.take()
  assert other != number
  del view, _
  jax.block_until_ready(on_device)
  np.testing.assert_array_equal(np.asarray(on_device), 7)
  del on_device
  gc.collect()
  assert {buffers.take()[0] for _ in range(2)} <= {number, other}
  assert len(buffers) == 2
  buffers.close()


def test_a_consumer_that_forgets_needs_few_buffers(root, monkeypatch):
  made = []
  make = Buffers._make
  monkeypatch.setattr(Buffers, '_make', lambda self: made.append(0) or make(self))
  settings = config(workers=2)
  manifest = manifest_of(root, settings)
  for batch in train_batches(manifest, settings, start_step=0, stop_step=60, rows=range(4)):
    batch['video'].sum()
  assert len(made) <= 4


def test_a_closed_stream_leaves_no_file_open(root):
  files = set(os.listdir('/proc/self/fd'))
  batches(root, 2, stop=2)
  assert set(os.listdir('/proc/self/fd')) == files


def test_two_batches_are_placed_ahead_in_their_order(root):
  reference = batches(root, 0, stop=6)
  settings, placed = config(workers=1), []

  def place(batch):
    placed.append(batch['id'][0])
    return {**batch, 'placed': True}

  stream = train_batches(
    manifest_of(root, settings), settings, start_step=0, stop_step=6, rows=range(4), place=place
  )
  found = []
  for k, batch in enumerate(stream):
    assert batch.pop('placed')
    found.append(batch)
    assert k < len(placed) <= k + 3
    deadline = time.monotonic() + 20
    while len(placed) < min(6, k + 3):  # though nobody asks for them
      assert time.monotonic() < deadline
      time.sleep(0.01)
  assert_equal(found, reference)


def test_what_placing_raises_ends_the_stream(root):
  settings = config(workers=0)

  def place(batch):
    raise RuntimeError('no such device')

  stream = train_batches(
    manifest_of(root, settings), settings, start_step=0, stop_step=3, rows=range(4), place=place
  )
  with pytest.raises(RuntimeError, match='no such device'):
    list(stream)


@pytest.mark.parametrize(
  'cores, quota, neighbors, videos, expected',
  [
    (1, 'max 100000', 1, 100, 0),
    (2, 'max 100000', 1, 100, 1),
    (64, 'max 100000', 1, 1000, 63),
    (64, 'max 100000', 1, 5, 5),
    (64, 'max 100000', 8, 1000, 7),
    (2, 'max 100000', 2, 100, 0),
    (64, '350000 100000', 1, 1000, 3),
  ],
)
def test_processes_by_default(monkeypatch, tmp_path, cores, quota, neighbors, videos, expected):
  file = tmp_path / 'cpu.max'
  file.write_text(quota + '\n')
  monkeypatch.setattr(pool, 'QUOTA', file)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(cores)))
  monkeypatch.setattr(hosts, 'joined', hosts.Cluster(None, 0, neighbors, neighbors))
  assert automatic(videos) == expected


def test_who_sets_nothing_gets_processes_and_the_same_batches(root, monkeypatch):
  settings = config(workers=None)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1})
  manifest = manifest_of(root, settings)
  stream = train_batches(manifest, settings, start_step=0, stop_step=3, rows=range(4))
  found = [next(stream)]
  assert len(worker_pids(os.getpid())) == 1
  assert_equal([*found, *stream], batches(root, 0))
