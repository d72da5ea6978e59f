# SPDX-License-Identifier: Apache-2.0
"""`vivit data check`: finds exactly the bad files, also if processes or the command are killed."""

import contextlib
import csv
import glob
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import pytest

from support.bad_files import BAD
from support.videos import config, write_dataset, write_video
from vivit_jax.cli.main import main
from vivit_jax.data.prepare.check import File, examine, examine_all
from vivit_jax.data.splits import Bad, open_split, read_list, write_list
from vivit_jax.errors import DataError


@pytest.fixture(scope='module')
def long(tmp_path_factory):
  """A video that takes about a second to decode."""
  file = tmp_path_factory.mktemp('long') / 'long.mp4'
  with av.open(str(file), 'w') as container:
    stream = container.add_stream('mpeg4', rate=10, options={'b': '9M', 'g': '600'})
    stream.width, stream.height, stream.pix_fmt = 640, 480, 'yuv420p'
    frame = av.VideoFrame(640, 480, 'yuv420p')
    for plane in frame.planes:
      plane.update(bytes(plane.buffer_size))
    for i in range(3000):
      frame.pts = i
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return file


def entry(file):
  return File(file.name, str(file), ())


def readers(file):
  """Returns the processes that have a file open, except this one."""
  found = []
  # Not Path.glob, which raises where a process ends meanwhile.
  for link in map(Path, glob.glob('/proc/[0-9]*/fd/*')):
    with contextlib.suppress(OSError):
      if os.readlink(link) == str(file) and int(link.parts[2]) != os.getpid():
        found.append(int(link.parts[2]))
  return found


def strike(file, sign):
  """Sends a signal to the first process that opens a file, from another thread."""

  def wait():
    while not (found := readers(file)):
      time.sleep(0.01)
    os.kill(found[0], sign)

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  return thread


def checked(files, **kwargs):
  found = examine_all([entry(file) for file in files], workers=1, quick=False, **kwargs)
  return {file.path: [reason for _, _, reason in rows] for file, rows in found}


@pytest.mark.parametrize(
  'sign, seconds, reason',
  [
    (signal.SIGSEGV, 60, 'decoder crashed: it ended by SIGSEGV'),
    (signal.SIGSTOP, 3, 'too slow: not finished in 3 s'),
  ],
)
def test_a_crash_or_a_stall_costs_one_process_and_names_its_file(
  long, tmp_path, sign, seconds, reason
):
  others = [write_video(tmp_path / f'{k}.mp4') for k in range(3)]
  thread = strike(long, sign)
  found = checked([others[0], long, *others[1:]], seconds=float(seconds))
  thread.join()
  assert found == {'0.mp4': [], 'long.mp4': [reason], '1.mp4': [], '2.mp4': []}
  assert not readers(long)


def test_memory_is_bounded_and_the_file_that_wants_more_is_named(tmp_path):
  large = write_video(tmp_path / 'large.mp4', 8, 2304, 4096, preset='ultrafast')
  small = write_video(tmp_path / 'small.mp4')
  assert examine(entry(large), quick=False) == []
  found = checked([large, small], megabytes=24)
  assert found['small.mp4'] == []
  assert found['large.mp4'] == ['too large: it needs more memory than the limit']


def data(root, bad, good):
  """A data set of several kinds of bad files among good ones; returns the names of the bad."""
  write_dataset(root, 1)
  names = [f'{k}.mp4' for k in range(good)]
  for name in names[1:]:
    shutil.copy(root / '0.mp4', root / name)
  for k, kind in enumerate(bad):
    names.insert(2 * k + 1, f'bad{k}.mp4')
    BAD[kind][0](root / names[2 * k + 1])
  rows = [f'{name},,,a' for name in names] + ['0.mp4,1,2,b', '0.mp4,50,51,b']
  (root / 'train.csv').write_text('\n'.join(['path,start,end,label', *rows]) + '\n')
  return root


def listed(file):
  with file.open(newline='') as handle:
    return list(csv.reader(handle))


KINDS = ('cut off', 'PNG', 'named pipe', 'gone', 'flipped bits', 'endless device')


def test_the_list_has_all_bad_files_and_training_leaves_them_out(tmp_path, capsys):
  root = data(tmp_path / 'data', KINDS, 8)
  assert main(['data', 'check', str(root), '--workers=1']) == 1
  out = capsys.readouterr().out
  assert '7 of 14 files are bad' in out
  assert 'not a file' in out
  header, *rows = listed(root / 'quarantine.csv')
  assert header == ['path', 'start', 'end', 'reason']
  assert [row[:3] for row in rows] == [
    ['0.mp4', '50.0', '51.0'],
    *([f'bad{k}.mp4', '', ''] for k in range(6)),
  ]
  for row, kind in zip(rows[1:], KINDS, strict=True):
    assert row[3].startswith(BAD[kind][1])

  settings = config(source='manifests', root=str(root))
  manifest = open_split(settings, 'train')
  assert '7 of the 16 videos in train.csv are left out' in capsys.readouterr().out
  assert [Path(v.path).name for v in manifest.videos] == [*(f'{k}.mp4' for k in range(8)), '0.mp4']
  assert len(open_split(settings, 'validation').videos) == 1
  (root / 'quarantine.csv').unlink()
  assert open_split(settings, 'train').fingerprint != manifest.fingerprint

  # What was missing or has changed is looked at again, and nothing else.
  shutil.copy(root / '0.mp4', root / 'bad0.mp4')
  assert main(['data', 'check', str(root), '--quick', '--workers=1']) == 1
  assert '12 of 14 files are known already' in capsys.readouterr().out
  assert [row[0] for row in listed(root / 'quarantine.csv')[2:]] == [
    f'bad{k}.mp4' for k in range(1, 6)
  ]


def start(root):
  return subprocess.Popen(
    [sys.executable, '-m', 'vivit_jax', 'data', 'check', str(root), '--workers=1'],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    start_new_session=True,
  )


def test_an_interrupted_or_killed_check_goes_on_where_it_was(long, tmp_path):
  root = data(tmp_path / 'data', KINDS[:4], 5)
  shutil.copy(long, root / '4.mp4')
  for sign, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
    process = start(root)
    while not (found := readers(root / '4.mp4')):
      assert process.poll() is None
      time.sleep(0.02)
    for reader in found:  # on a busy machine it could be done before the signal comes
      os.kill(reader, signal.SIGSTOP)
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
    if sign == signal.SIGKILL:
      process.wait()
    for reader in found:
      with contextlib.suppress(ProcessLookupError):
        os.kill(reader, signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    deadline = time.monotonic() + 10
    while readers(root / '4.mp4') and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not readers(root / '4.mp4'), f'{found} outlived the command'
    if sign == signal.SIGINT:
      assert '8 of 9 files are checked: run it again to resume' in out
      assert [row[0] for row in listed(root / 'quarantine.csv')[2:]] == [
        f'bad{k}.mp4' for k in range(4)
      ]
  process = start(root)
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 1
  assert '7 of 9 files are known already' in out  # not the missing one
  assert '5 of 9 files are bad' in out


def test_lists_of_other_splits_stay_and_bad_ones_are_refused(tmp_path):
  file = tmp_path / 'quarantine.csv'
  rows = [Bad('a,\n"b.mp4', None, None, 'damaged: x'), Bad('c.mp4', 1.0, 2.5, 'empty span: y')]
  write_list(file, rows[1:])
  assert read_list(file) == rows[1:]
  assert read_list(tmp_path / 'none.csv') == []
  for text in ('path,reason\n', 'path,start,end,reason\nx.mp4,1\n', ''):
    file.write_text(text)
    with pytest.raises(DataError, match=r'quarantine.csv.* run `vivit data check` again'):
      read_list(file)


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['{}', '--workers=0'], '--workers=0 is not a number of processes'),
    (['{}', '--timeout=nan'], '--timeout=nan is not a time'),
    (['{}/train.csv', '--split=test'], '--split=test is not'),
    (['{}/none'], 'has none of train.csv'),
    (['{}/none.csv'], 'none.csv does not exist'),
  ],
)
def test_mistakes_in_a_check_are_one_line(tmp_path, capsys, arguments, said):
  assert main(['data', 'check', *(a.format(tmp_path) for a in arguments)]) == 2
  err = capsys.readouterr().err
  assert said in err
  assert err.count('\n') == 1
