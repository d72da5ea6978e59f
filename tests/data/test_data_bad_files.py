# SPDX-License-Identifier: Apache-2.0
"""Unreadable videos: reported with a reason, replaced in training, skipped in evaluation.

What opens them in this process must neither block nor take the memory that they promise.
"""

import resource

import numpy as np
import pytest

from support.bad_files import BAD, FRAMES, GOOD
from support.examples import reading
from support.videos import config, numbers, write_dataset
from vivit_jax.data.examples import EvaluationVideos, TrainingExamples
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.video.reader import DecodeError, VideoReader

MEGABYTES = 64  # beyond what this process had; the largest true frame takes 14


@pytest.mark.parametrize('kind', BAD)
def test_each_kind_is_named_replaced_and_excluded(kind, tmp_path):
  make, said = BAD[kind]
  root = write_dataset(tmp_path / 'data', 3)
  bad = root / '1.mp4'
  bad.unlink()
  make(bad)
  settings = config(max_bad_fraction=0.5)
  manifest = read_manifest(root, 'train', settings.task)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  examples = reading(TrainingExamples(manifest, settings))
  records = [examples(number) for number in range(3)]
  assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
  failures = [failure for record in records for failure in record['failures']]
  assert failures
  path, reason = failures[0]
  assert path == str(bad)
  assert reason.startswith(said)
  assert '\n' not in reason
  assert set(failures) == {(path, reason)}, 'the same words every time'
  assert all(int(record['id']) != 1 for record in records)

  videos = reading(EvaluationVideos(manifest, settings, 2, 1))
  assert [bool(videos(k)['mask']) for k in range(3)] == [True, False, True]
  assert not videos(1)['video'].any()
  ((path, reason),) = videos(1)['failures']
  assert path == str(bad)
  listed = Failures(manifest, settings.data.max_bad_fraction, tmp_path)
  listed.add([(path, reason)])
  assert listed.reasons == {path: reason}


@pytest.mark.parametrize('kind', GOOD)
def test_sizes_that_only_headers_claim_are_not_believed(kind, tmp_path):
  file = tmp_path / 'x.mp4'
  GOOD[kind](file)
  with VideoReader(str(file)) as reader:
    np.testing.assert_array_equal(numbers(reader.read(np.arange(FRAMES))), np.arange(FRAMES))


@pytest.mark.parametrize('name', ['x.avi', 'x.txt', 'x'])
def test_a_name_does_not_make_a_video_nor_unmake_it(name, tmp_path):
  file = write_dataset(tmp_path / 'data', 1) / '0.mp4'
  with VideoReader(str(file.rename(tmp_path / name))) as reader:
    assert reader.frames == FRAMES


@pytest.mark.parametrize('kind', ['PNG', 'cut off', 'empty'])
def test_bytes_in_memory_are_named_like_files(kind, tmp_path):
  make, said = BAD[kind]
  make(tmp_path / 'x.mp4')
  with pytest.raises(DecodeError) as error:
    VideoReader('shard 3', content=(tmp_path / 'x.mp4').read_bytes())
  assert error.value.path == 'shard 3'
  assert error.value.reason.startswith(said)
