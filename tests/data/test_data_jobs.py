# SPDX-License-Identifier: Apache-2.0
"""Code shared by check and build: a journal that survives kills, and worker processes."""

import os
import signal
import time

from support.streams import worker_pids
from support.videos import write_dataset
from vivit_jax.data.pool import WorkerPool
from vivit_jax.data.prepare.encode import Encoding
from vivit_jax.data.prepare.jobs import Journal
from vivit_jax.data.prepare.samples import Finished, finish_samples, read_source
from vivit_jax.data.worker import Work


class Double(Work):
  """Work that takes no time."""

  def __call__(self, task):
    """Returns twice the task."""
    return 2 * task


def test_a_line_that_was_cut_off_is_ignored_and_not_continued(tmp_path):
  file = tmp_path / 'journal.jsonl'
  Journal(file).add({'a': 1})
  with file.open('ab') as handle:
    handle.write(b'{"a": 2')
  journal = Journal(file)
  assert journal.entries == [{'a': 1}]
  journal.add({'a': 3})
  assert Journal(file).entries == [{'a': 1}, {'a': 3}]


def test_a_process_killed_while_it_waits_for_work_is_replaced():
  pool = WorkerPool(Double(), 1)
  pool.start()
  try:
    for killed in (False, True):
      if killed:
        (pid,) = worker_pids(os.getpid())
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
      pool.submit(21, 30.0)
      found = []
      while not found:
        found += pool.results()
      assert found == [(21, 42)]
  finally:
    pool.close()


def test_a_video_that_changed_meanwhile_is_done_again(tmp_path):
  source = write_dataset(tmp_path / 'source', 2)
  (tmp_path / 'work').mkdir()
  samples = read_source(source).samples
  none = lambda failures: None  # noqa: E731
  assert finish_samples(samples, Encoding(), Finished(tmp_path / 'work'), 0.0, none) == {}
  (source / '1.mp4').write_bytes((source / '0.mp4').read_bytes() + b'\0' * 8)
  resumed = Finished(tmp_path / 'work')
  assert [sample.name for sample in samples if not resumed.has(sample, Encoding())] == ['1.mp4'] * 2
  assert finish_samples(samples, Encoding(), resumed, 0.0, none) == {}
  assert all(resumed.has(sample, Encoding()) for sample in samples)
