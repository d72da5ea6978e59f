# SPDX-License-Identifier: Apache-2.0
"""Batches: the same for any workers, hosts and resumption; evaluation sees each view once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.streams import assert_equal, gone, worker_pids
from support.videos import config, write_dataset
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.pipeline import evaluation_batches, train_batches
from vivit_jax.errors import DataError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Seven videos, one of which cannot be read."""
  root = write_dataset(tmp_path_factory.mktemp('pipeline') / 'data', 7)
  (root / '2.mp4').write_bytes(b'')
  return root


def batches(root, start_step=0, stop_step=5, rows=range(4), **data):
  settings = config(batch_size=4, **data)
  manifest = read_manifest(root, 'train', settings.task)
  return list(
    train_batches(manifest, settings, start_step=start_step, stop_step=stop_step, rows=rows)
  )


def test_batches_do_not_depend_on_workers_or_resuming(root):
  reference = batches(root)
  assert reference[0]['video'].shape == (4, 4, 32, 32, 3)
  assert reference[0]['label'].shape == (4, 1)
  assert sum(len(b['failures']) for b in reference) >= 2
  assert_equal(batches(root, workers=1), reference)
  assert_equal(batches(root, start_step=3), reference[3:])
  assert_equal(batches(root, start_step=2, workers=3), reference[2:])


def test_hosts_together_load_the_global_batch(root):
  whole = batches(root)
  hosts = [0], [1, 3], [2]  # a mesh need not give neighbours to a host
  parts = [batches(root, rows=rows) for rows in hosts]
  for k, batch in enumerate(whole):
    for name in ('video', 'label', 'id'):
      for rows, part in zip(hosts, parts, strict=True):
        np.testing.assert_array_equal(part[k][name], batch[name][rows])


def test_closing_early_stops_the_workers(root):
  settings = config(workers=2)
  manifest = read_manifest(root, 'train', settings.task)
  stream = train_batches(manifest, settings, start_step=0, stop_step=10**6, rows=range(4))
  next(stream)
  children = worker_pids(os.getpid())
  assert len(children) == 2
  stream.close()
  assert gone(children)


def test_an_error_in_a_worker_keeps_its_type_and_line(tmp_path):
  root = write_dataset(tmp_path / 'data', 2)
  for file in root.glob('*.mp4'):
    file.unlink()
  with pytest.raises(DataError, match=r'10 videos of train.csv in a row'):
    batches(root, workers=1)


def evaluate(root, host=0, hosts=1, size=4, views=(2, 3), **data):
  settings = config(**data)
  manifest = read_manifest(root, 'validation', settings.task)
  return list(
    evaluation_batches(
      manifest,
      settings,
      temporal_views=views[0],
      spatial_views=views[1],
      batch_size=size,
      host=host,
      hosts=hosts,
    )
  )


def counts(stream):
  ids = np.concatenate([b['id'][b['mask']] for b in stream])
  return np.bincount(ids, minlength=7)


def test_every_view_of_every_readable_video_counts_once(root):
  for size in (4, 5, 64):
    stream = evaluate(root, size=size)
    assert len(stream) == -(-7 * 6 // size)
    assert all(b['video'].shape == (size, 4, 32, 32, 3) for b in stream)
    np.testing.assert_array_equal(counts(stream), [6, 6, 0, 6, 6, 6, 6])
    padding = np.concatenate([b['id'] for b in stream])[7 * 6 :]
    assert (padding == -1).all()
    (failure,) = [f for b in stream for f in b['failures']]
    assert failure[0] == str(root / '2.mp4')


def test_workers_change_nothing_in_evaluation(root):
  assert_equal(evaluate(root, workers=2), evaluate(root))


@pytest.mark.parametrize('hosts', [2, 3, 8])
def test_hosts_yield_equally_many_batches_and_share_the_videos(root, hosts):
  streams = [evaluate(root, host, hosts, size=4 * hosts) for host in range(hosts)]
  assert len({len(stream) for stream in streams}) == 1
  assert all(len(b['id']) == 4 for stream in streams for b in stream)
  total = sum(counts(stream) for stream in streams)
  np.testing.assert_array_equal(total, [6, 6, 0, 6, 6, 6, 6])


PROGRAM = """
import sys, time
sys.path[:0] = [{tests!r}, {package!r}]
from support.videos import config
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.pipeline import train_batches
if __name__ == '__main__':
  settings = config(workers=2)
  manifest = read_manifest({root!r}, 'train', settings.task)
  for _ in train_batches(manifest, settings, start_step=0, stop_step=10**6, rows=range(4)):
    print('batch', flush=True)
    time.sleep(0.2)
"""


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_trainer_that_is_killed(root, tmp_path, how):
  program = tmp_path / 'program.py'
  tests = Path(__file__).parent.parent
  program.write_text(PROGRAM.format(tests=str(tests), package=str(tests.parent), root=str(root)))
  with subprocess.Popen(
    [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
  ) as process:
    assert process.stdout is not None
    for _ in range(3):
      assert process.stdout.readline() == b'batch\n'
    children = worker_pids(process.pid)
    assert len(children) == 2
    process.send_signal(how)
    process.wait(30)
  assert gone(children)
