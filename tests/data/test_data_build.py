# SPDX-License-Identifier: Apache-2.0
"""`vivit data build`: prepared data equals the source, also if the build was killed and resumed."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from support.videos import FIRST, STEP, config, numbers, write_dataset, write_video
from vivit_jax.cli import main
from vivit_jax.config.schema import Task
from vivit_jax.data.prepare.build import build
from vivit_jax.data.prepare.encode import Encoding
from vivit_jax.data.prepare.shards import open_prepared
from vivit_jax.data.splits import open_split
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.errors import DataError

ROOT = Path(__file__).parent.parent.parent


def command(source, target, *options):
  return [sys.executable, '-m', 'vivit_jax', 'data', 'build', str(source), str(target), *options]


def environment():
  return {**os.environ, 'PYTHONPATH': str(ROOT)}


def tree(root):
  """Returns all files by name; of shards the size, as the order of a record's fields varies."""
  files = [p for p in root.rglob('*') if p.is_file()]
  return {
    p.relative_to(root).as_posix(): p.stat().st_size if 'array_record' in p.name else p.read_bytes()
    for p in files
  }


def rows(file):
  with file.open(newline='') as handle:
    return list(csv.DictReader(handle))


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Returns (source, target) of a build of copies."""
  folder = tmp_path_factory.mktemp('prepared')
  source = write_dataset(folder / 'source', 3)
  (source / 'validation.csv').write_text('path,label\n2.mp4,a\n')
  (source / 'classes' / 'tags.txt').write_text('x\ny\nz\n')
  (source / 'train.csv').write_text('path,label,tags\n0.mp4,a,z|x\n1.mp4,b,\n2.mp4,a,y\n')
  (source / 'validation.csv').write_text('path,label,tags\n2.mp4,a,x\n')
  build(source, folder / 'target', Encoding(), 0.0)
  return source, folder / 'target'


def test_copies_read_back_as_the_sources(prepared):
  source, target = prepared
  manifest = open_prepared(target, 'train', Task(classes=(2,)))
  assert [manifest.contents[k] for k in range(3)] == [
    (source / f'{k}.mp4').read_bytes() for k in range(3)
  ]
  assert [video.labels for video in manifest.videos] == [(0,), (1,), (0,)]
  tags = open_prepared(target, 'train', Task('multi_label', ('tags',), (3,)))
  assert [video.labels for video in tags.videos] == [(0, 2), (), (1,)]
  record = manifest.contents.record(0)
  assert (record['id'], record['frames'], record['fps']) == (b'0.mp4', 24, 10.0)
  assert (record['labels']['label'], list(record['labels']['tags'])) == (0, [0, 2])
  with manifest.open(1) as reader:
    assert numbers(reader.read(np.array([5, 20]))).tolist() == [5, 20]
  assert [row['frames'] for row in rows(target / 'train.csv')] == ['24', '24', '24']
  assert not (target / '.building').exists()
  assert not (target / 'skipped.csv').exists()


def test_spans_are_cut_at_their_frames_and_keep_their_times(tmp_path):
  source = write_dataset(tmp_path / 'source', 1, frames=30)
  (source / 'validation.csv').unlink()
  (source / 'train.csv').write_text('path,start,end,label\n0.mp4,0.5,1.7,a\n0.mp4,2,,b\n')
  build(source, tmp_path / 'target', Encoding(), 0.0)
  manifest = open_prepared(tmp_path / 'target', 'train', Task(classes=(2,)))
  expected = [(range(5, 17), 1.1), (range(20, 30), 0.9)]
  for index, (frames, seconds) in enumerate(expected):
    with manifest.open(index) as reader:
      assert reader.seconds == pytest.approx(seconds)
      assert numbers(reader.read(np.arange(reader.frames))).tolist() == list(frames)
  assert [Path(v.path).name for v in manifest.videos] == ['0.mp4#t=0.5,1.7', '0.mp4#t=2.0,']


def test_short_side_and_key_frames(tmp_path):
  source = write_dataset(tmp_path / 'source', 1)
  write_video(source / '0.mp4', 24, 80, 121 * 2, g='100')
  build(source, tmp_path / 'target', Encoding(short_side=40, key_frames=6), 0.0)
  content = open_prepared(tmp_path / 'target', 'train', Task(classes=(2,))).contents[0]
  (tmp_path / 'out.mp4').write_bytes(content)
  with av.open(str(tmp_path / 'out.mp4')) as container:
    keys = [k for k, frame in enumerate(container.decode(video=0)) if frame.key_frame]
  assert keys == [0, 6, 12, 18]
  with VideoReader('out.mp4', content=content) as reader:
    images = reader.read(np.arange(24))
  assert images.shape == (24, 40, 120, 3)  # 121 wide: 4:2:0 needs even sides
  assert numbers(images).tolist() == list(range(24))


def test_rotated_videos_are_stored_upright_and_in_time(tmp_path):
  times = [0, 1, 2, 10, 11, 30, 31, 32, 33, 80]  # tenths of a second
  source = write_dataset(tmp_path / 'source', 1)
  with av.open(str(source / '0.mp4'), 'w') as container:
    stream = container.add_stream('libx264', rate=10, options={'crf': '5', 'g': '4'})
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    stream.set_display_rotation(90)
    for i, time_ in enumerate(times):
      image = np.full((48, 64, 3), FIRST + STEP * i, np.uint8)
      image[:, :32] -= 4
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      frame.pts, frame.time_base = time_, Fraction(1, 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  build(source, tmp_path / 'target', Encoding(key_frames=3), 0.0)
  manifest = open_prepared(tmp_path / 'target', 'train', Task(classes=(2,)))
  with VideoReader(str(source / '0.mp4')) as before, manifest.open(0) as after:
    expected = before.read(np.arange(10))
    found = after.read(np.arange(10))
  assert found.shape == (10, 64, 48, 3)
  assert np.abs(found.astype(int) - expected).max() <= 4
  with av.open(io.BytesIO(manifest.contents[0])) as container:
    stored = [frame.time for frame in container.decode(video=0)]
  np.testing.assert_allclose(stored, np.array(times) / 10, atol=1e-6)


def test_killed_three_times_it_ends_like_an_uninterrupted_build(tmp_path):
  videos = 40  # so that three kills come before the end, however quick the machine
  source = write_dataset(tmp_path / 'source', videos)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  build(source, whole, Encoding(short_side=32), 0.0)
  rng, finished = random.Random(0), []
  for _ in range(3):
    process = subprocess.Popen(
      command(source, killed, '--short-side=32'),
      env=environment(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
    )
    journal = killed / '.building' / 'finished.jsonl'
    before = finished[-1] if finished else 0
    while process.poll() is None:
      now = len(journal.read_bytes().splitlines()) if journal.exists() else 0
      if now > before:
        break
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    assert process.wait() == -signal.SIGKILL, 'it was done before it could be killed'
    finished.append(len(journal.read_bytes().splitlines()))
  assert not (killed / 'prepared.json').exists()
  subprocess.run(command(source, killed, '--short-side=32'), env=environment(), check=True)
  assert tree(killed) == tree(whole)  # hashes of all videos, in their order, among it
  for split in ('train', 'validation'):
    a, b = (open_prepared(root, split, Task(classes=(2,))) for root in (whole, killed))
    assert a.fingerprint == b.fingerprint
    assert a.contents.records() == b.contents.records() == videos
    for index in range(videos):
      assert a.contents.record(index) == b.contents.record(index)


def test_unreadable_videos_are_left_out_and_named_or_too_many(tmp_path, capsys):
  source = write_dataset(tmp_path / 'source', 4)
  (source / '1.mp4').write_bytes((source / '1.mp4').read_bytes()[:900])
  (source / '2.mp4').unlink()
  arguments = ['data', 'build', str(source), str(tmp_path / 'target')]
  assert main.main([*arguments, '--max-bad-fraction=0.4']) == 2
  message = capsys.readouterr().err.splitlines()[-1]
  assert '4 of 8 videos cannot be read, more than --max-bad-fraction=0.4' in message
  assert len(rows(tmp_path / 'target' / 'skipped.csv')) == 4
  assert main.main([*arguments, '--max-bad-fraction=0.5']) == 0
  assert 'train 2, validation 2 videos' in capsys.readouterr().out
  skipped = rows(tmp_path / 'target' / 'skipped.csv')
  assert [(row['split'], row['path']) for row in skipped] == [
    (split, path) for split in ('train', 'validation') for path in ('1.mp4', '2.mp4')
  ]
  manifest = open_prepared(tmp_path / 'target', 'train', Task(classes=(2,)))
  assert manifest.contents[1] == (source / '3.mp4').read_bytes()


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path):
  """A limit on the size of files stands for a full disk: the system refuses the same call."""
  source = write_dataset(tmp_path / 'source', 3)
  # In kB: below a shard's 128, above all else.
  limited = ['bash', '-c', 'ulimit -f 97; exec "$@"', 'bash', *command(source, tmp_path / 'target')]
  result = subprocess.run(limited, env=environment(), capture_output=True, text=True)
  assert result.returncode == 2, result.stderr
  line = result.stderr.splitlines()[-1]
  assert line.startswith(f'vivit: error: {tmp_path / "target"} cannot be written: ')
  assert 'Traceback' not in result.stderr
  assert len((tmp_path / 'target/.building/finished.jsonl').read_text().splitlines()) == 6
  build(source, tmp_path / 'target', Encoding(), 0.0)
  open_prepared(tmp_path / 'target', 'train', Task(classes=(2,)))


def test_a_target_that_is_something_else_is_refused(prepared, tmp_path):
  source, target = prepared
  before = tree(target)
  build(source, target, Encoding(), 0.0)
  assert tree(target) == before
  with pytest.raises(DataError, match=r'a different build \(short_side=None, now 32\)'):
    build(source, target, Encoding(short_side=32), 0.0)
  with pytest.raises(DataError, match='has other content'):
    build(source, source, Encoding(), 0.0)
  with pytest.raises(DataError, match='holds prepared videos'):
    build(target, tmp_path / 'other', Encoding(), 0.0)


def test_an_unfinished_target_is_not_trained_from(tmp_path):
  (tmp_path / '.building').mkdir()
  with pytest.raises(DataError, match='not finished: run its `vivit data build` command'):
    open_split(config(root=str(tmp_path)), 'train')


def test_counts_and_hashes_are_recorded(prepared):
  facts = json.loads((prepared[1] / 'prepared.json').read_text())
  assert {name: split['videos'] for name, split in facts['splits'].items()} == {
    'train': 3,
    'validation': 1,
  }
