# SPDX-License-Identifier: Apache-2.0
"""`vivit data index` on one's own videos: what it writes, what it refuses, and two-command runs."""

import json
import shlex
import shutil

import pytest

from support.indexes import contents, finetune, mistake, rows
from support.videos import write_video
from vivit_jax.checkpoint.workdir import check_compatible
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Task
from vivit_jax.data.index.annotations import Annotation, split_train_validation
from vivit_jax.data.manifest import read_manifest
from vivit_jax.data.splits import open_split, with_classes
from vivit_jax.train.loop import train


@pytest.fixture(scope='session')
def video(tmp_path_factory):
  """One video file, copied by all tests that only need some."""
  return write_video(tmp_path_factory.mktemp('video') / 'video.mp4', frames=12)


@pytest.fixture
def place(video):
  """A function that makes videos of given paths in a folder."""

  def copy(folder, *paths):
    for path in paths:
      (folder / path).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(video, folder / path)
    return folder

  return copy


def test_folders_of_splits_and_classes(tmp_path, place, capsys):
  place(
    tmp_path,
    *('train/run/b.mp4', 'train/run/more/a.MP4', 'train/high jump, long/a,b.webm'),
    *('val/run/c.mp4', 'testing/run/d.avi', 'train/.hidden/x.mp4', 'other/run/e.mp4'),
  )
  (tmp_path / 'train/run/notes.txt').write_text('no video')
  assert main(['data', 'index', str(tmp_path)]) == 0
  assert rows(tmp_path / 'train.csv') == [
    ['path', 'start', 'end', 'label'],
    ['train/high jump, long/a,b.webm', '', '', 'high jump, long'],
    ['train/run/b.mp4', '', '', 'run'],
    ['train/run/more/a.MP4', '', '', 'run'],
  ]
  assert [row[0] for row in rows(tmp_path / 'validation.csv')[1:]] == ['val/run/c.mp4']
  assert [row[0] for row in rows(tmp_path / 'test.csv')[1:]] == ['testing/run/d.avi']
  assert (tmp_path / 'classes/label.txt').read_text() == 'high jump, long\nrun\n'
  out = capsys.readouterr().out
  table = [line.split() for line in out.splitlines()]
  assert ['train', '3', '0', 'label', '2', '-'] in table
  assert ['validation', '1', '0', 'label', '2', '1:', 'high', 'jump,', 'long'] in table
  assert '1 videos outside of train, validation and test are left out' in out
  assert f'--config=finetune --config.data.root={tmp_path} ' in out
  manifest = read_manifest(tmp_path, 'train', Task(classes=()))
  with manifest.open(2) as reader:
    assert reader.frames == 12


@pytest.mark.usefixtures('one_device', 'compiled_once')
def test_a_fine_tune_is_two_commands_and_knows_its_classes(tmp_path, place, capsys):
  data = place(tmp_path / 'data', *(f'{name}/{k}.mp4' for name in 'abc' for k in range(4)))
  assert main(['data', 'index', str(data)]) == 0
  config = finetune(data)
  assert config.task.classes == ()
  workdir = tmp_path / 'run'
  results = train(config, workdir)
  assert results['tasks']['label']['classes'] == 3
  assert json.loads((workdir / 'config.json').read_text())['config']['task']['classes'] == [3]
  manifest = open_split(config, 'train')
  assert results['videos'] + len(manifest.videos) == 12
  # The data has no test videos: whoever asks for them is not given others.
  assert 'no test split, so this evaluates its validation videos' in capsys.readouterr().err
  assert main(['evaluate', f'--workdir={workdir}', '--split=test', '--views=1x1']) == 2
  said = capsys.readouterr().err
  assert f'{data}/test.csv does not exist: {data} has train.csv and validation.csv\n' in said
  assert json.loads((workdir / 'report.json').read_text())['split'] == 'validation'
  # The same command, its number of classes found again, continues the run.
  assert check_compatible(workdir, with_classes(config), manifest.fingerprint) == []


def test_inspect_takes_the_number_of_classes_from_the_data(tmp_path, place, capsys):
  data = place(tmp_path, *(f'{name}/{k}.mp4' for name in 'abc' for k in range(2)))
  assert main(['data', 'index', str(data)]) == 0
  capsys.readouterr()
  inspect = ['inspect', '--config=configs/finetune.py:Ti/16x2', '--json']
  assert main([*inspect, f'--config.data.root={data}']) == 0
  assert json.loads(capsys.readouterr().out)['config']['task']['classes'] == [3]
  assert main(inspect) == 0  # without data
  assert json.loads(capsys.readouterr().out)['config']['task']['classes'] == []
  (data / 'classes/label.txt').write_text('\n')
  assert main([*inspect, f'--config.data.root={data}']) == 2
  assert 'classes/label.txt has no class names' in capsys.readouterr().err


def test_classes_without_splits_are_split_by_the_path_hash(tmp_path, place):
  paths = [
    f'{name}/{k}.mp4' for name in ('many', 'a few') for k in range({'many': 50}.get(name, 3))
  ]
  place(tmp_path, *paths, 'one/0.mp4')
  assert main(['data', 'index', str(tmp_path)]) == 0
  found = {s: [row[0] for row in rows(tmp_path / f'{s}.csv')[1:]] for s in ('train', 'validation')}
  assert sorted(found['train'] + found['validation']) == sorted([*paths, 'one/0.mp4'])
  assert sum(path.startswith('many') for path in found['validation']) == 10
  assert any(path.startswith('a few') for path in found['validation'])
  assert any(path.startswith('a few') for path in found['train'])
  assert 'one/0.mp4' in found['train']
  elsewhere = tmp_path / 'copied' / 'to'
  elsewhere.mkdir(parents=True)
  for name in ('many', 'a few', 'one'):
    (tmp_path / name).rename(elsewhere / name)
  assert main(['data', 'index', str(elsewhere)]) == 0
  assert (elsewhere / 'validation.csv').read_text() == (tmp_path / 'validation.csv').read_text()


def test_a_class_may_have_the_name_of_a_split(tmp_path, place):
  place(tmp_path, 'train/1.mp4', 'train/2.mp4', 'test/1.mp4', 'bus/1.mp4')
  (tmp_path / 'bus' / 'loop').symlink_to(tmp_path)  # no folder is entered twice
  assert main(['data', 'index', str(tmp_path)]) == 0
  assert (tmp_path / 'classes/label.txt').read_text() == 'bus\ntest\ntrain\n'
  found = rows(tmp_path / 'train.csv')[1:] + rows(tmp_path / 'validation.csv')[1:]
  paths = ['bus/1.mp4', 'test/1.mp4', 'train/1.mp4', 'train/2.mp4']
  assert sorted(row[0] for row in found) == paths


def test_segments_of_one_video_are_never_divided():
  parts = [
    Annotation('train', f'{k % 40}.mp4', (f'class {k % 7}',), '', '', start=float(k), end=k + 1.0)
    for k in range(400)
  ]
  splits = {}
  for row in split_train_validation(parts):
    splits.setdefault(row.path, set()).add(row.split)
  assert all(len(found) == 1 for found in splits.values())
  assert {'train', 'validation'} == set().union(*splits.values())


def test_what_is_left_out_is_said_and_why(tmp_path, place, capsys):
  place(tmp_path, 'run/1.mp4', 'run/2.mp4', 'jump/1.mp4', 'jump/2.flv', 'run/.x.mp4')
  for name in ('run/3.gif', 'run/4.GIF', 'jump/3.wmv', 'jump/notes.txt', 'jump/README'):
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / 'jump' / 'loop').symlink_to(tmp_path)
  for _ in range(2):  # what the first call writes is nothing that is left out
    assert main(['data', 'index', str(tmp_path)]) == 0
    notes = capsys.readouterr().out.partition('left out')
    assert (
      'jump/2.flv'
      in (tmp_path / 'train.csv').read_text() + (tmp_path / 'validation.csv').read_text()
    )
    assert (notes[1] + notes[2]).splitlines()[:4] == [
      'left out: 2 .gif, 1 .wmv, not read: convert them, e.g. `ffmpeg -i IN.gif -pix_fmt yuv420p '
      "OUT.mp4`: 'jump/3.wmv', 'run/3.gif', 'run/4.GIF'",
      "left out: 1 folders that are already searched by another path: 'jump/loop'",
      "left out: 1 hidden files and folders: 'run/.x.mp4'",
      "left out: 1 .txt, 1 without suffix, not videos by their names: 'jump/README', "
      "'jump/notes.txt'",
    ]


def test_a_video_in_two_splits_is_said(tmp_path, place, capsys):
  place(tmp_path, 'x.mp4', 'y.mp4')
  file = tmp_path / 'videos.csv'
  file.write_text('path,label,split\nx.mp4,a ,train\nx.mp4,a,val\ny.mp4,a,train\ny.mp4,a,test\n')
  assert main(['data', 'index', str(file)]) == 0
  out = capsys.readouterr().out
  assert "1 videos are in both train and validation, e.g. 'x.mp4': scores on validation" in out
  assert "1 videos are in both train and test, e.g. 'y.mp4': scores on test" in out
  assert 'validation and test' not in out
  assert f'1 rows have spaces around class names, which are removed, e.g. {file}:2' in out


def test_the_next_command_and_names_are_harmless_in_a_shell(tmp_path, place, capsys):
  folder = tmp_path / "my $(touch x) 'videos'"
  place(folder, 'a\x1b[31m/1.mp4', 'a\x1b[31m/2.mp4', '\x1b]0;title\x07.mp4')
  (folder / '\x1b]0;title\x07.mp4').unlink()
  assert main(['data', 'index', str(folder)]) == 0
  out = capsys.readouterr().out
  assert '\x1b' not in out
  words = shlex.split(out.splitlines()[-1])
  assert f'--config.data.root={folder}' in words
  (tmp_path / 'videos.csv').write_text('path,"$(touch y)"\nx.mp4,b\n')
  place(tmp_path, 'x.mp4')
  assert main(['data', 'index', str(tmp_path / 'videos.csv')]) == 0
  words = shlex.split(capsys.readouterr().out.splitlines()[-1])
  assert "--config.task.heads=('$(touch y)',)" in words


def test_one_csv(tmp_path, place, capsys):
  place(tmp_path, 'x.mp4', 'deep/y.mp4')
  file = tmp_path / 'videos.csv'
  file.write_text(
    'noun,path,split,start,end,verb\n'
    'door,x.mp4,train,0.2,1.0,open\n'
    'box,deep/y.mp4,val,,,close\n'
    'lid,gone.mp4,train,,,open\n'
  )
  assert main(['data', 'index', str(file)]) == 0
  assert rows(tmp_path / 'train.csv') == [
    ['path', 'start', 'end', 'noun', 'verb'], ['x.mp4', '0.2', '1', 'door', 'open'],
  ]  # fmt: skip
  assert rows(tmp_path / 'validation.csv')[1:] == [['deep/y.mp4', '', '', 'box', 'close']]
  assert rows(tmp_path / 'missing.csv')[1:] == [['train', 'gone.mp4', f'{file}:4']]
  assert (tmp_path / 'classes/noun.txt').read_text() == 'box\ndoor\nlid\n'
  out = capsys.readouterr().out
  assert '''--config.task.heads="('noun','verb')"''' in out
  assert f'1 annotated videos do not exist: {tmp_path / "missing.csv"}' in out
  place(tmp_path, 'gone.mp4')
  assert main(['data', 'index', str(file), '--force']) == 0
  assert not (tmp_path / 'missing.csv').exists()


def test_one_csv_of_tags(tmp_path, place, capsys):
  place(tmp_path, *(f'{k}.mp4' for k in range(4)))
  file = tmp_path / 'videos.csv'
  file.write_text('path,tags\n0.mp4,red|round\n1.mp4,\n2.mp4,round\n3.mp4,blue\n')
  assert main(['data', 'index', str(file)]) == 0
  assert (
    '--config.task.kind=multi_label --config.task.heads="(\'tags\',)"' in capsys.readouterr().out
  )
  task = Task(kind='multi_label', heads=('tags',), classes=(3,))
  manifest = read_manifest(tmp_path, 'train', task)
  assert manifest.class_names == {'tags': ('blue', 'red', 'round')}


def test_the_same_again_changes_nothing_and_another_needs_force(tmp_path, place, capsys):
  data = place(tmp_path, 'train/a/1.mp4', 'validation/a/2.mp4', 'test/a/3.mp4')
  assert main(['data', 'index', str(data)]) == 0
  first, times = contents(data), {p: p.stat().st_mtime_ns for p in data.glob('*.csv')}
  assert main(['data', 'index', str(data)]) == 0
  assert {p: p.stat().st_mtime_ns for p in data.glob('*.csv')} == times
  place(data, 'train/b/4.mp4')
  (data / 'test/a/3.mp4').unlink()
  capsys.readouterr()
  said = mistake(capsys, data)
  assert 'exists with different content (and 2 more): replace it with --force' in said
  assert contents(data) == first
  assert main(['data', 'index', str(data), '--force']) == 0
  assert not (data / 'test.csv').exists()
  assert contents(data)['classes/label.txt'] == 'a\nb\n'


def test_another_output_links_to_the_videos(tmp_path, place, capsys):
  data, output = place(tmp_path / 'read only', 'train/a/1.mp4', 'val/a/2.mp4'), tmp_path / 'k/out'
  for _ in range(2):
    assert main(['data', 'index', str(data), f'--output={output}']) == 0
  assert rows(output / 'train.csv')[1] == ['videos/train/a/1.mp4', '', '', 'a']
  with read_manifest(output, 'train', Task(classes=(1,))).open(0) as reader:
    assert reader.frames == 12
  assert sorted(p.name for p in data.iterdir()) == ['train', 'val']
  assert main(['data', 'index', str(data), f'--output={tmp_path}']) == 0
  assert rows(tmp_path / 'train.csv')[1][0] == 'read only/train/a/1.mp4'
  other = place(tmp_path / 'other', 'train/a/1.mp4', 'val/a/2.mp4')
  assert 'is in the way of a link' in mistake(capsys, other, f'--output={output}')


MISTAKES = {
  # name: (videos, text files, source, what the line must say)
  'no folder': ((), {}, 'nowhere', ['nowhere does not exist: give the folder']),
  'no videos': ((), {'a/x.txt': ''}, '.', ['has no videos: none of its files ends in .mp4']),
  'no classes': (['x.mp4', 'a/y.mp4'], {}, '.', ["'x.mp4' has no class", '<class>/x.mp4']),
  'no classes in train': (
    ['train/x.mp4', 'val/y.mp4'], {}, '.', ["'train/x.mp4' has no class", 'train/<class>/x.mp4'],
  ),
  'empty class': (
    ['train/a/x.mp4', 'val/a/y.mp4'], {'train/b/x.zip': ''}, '.', ["train/b has no videos", "'b'"],
  ),
  'empty class, no splits': (['a/x.mp4'], {'b/x.zip': ''}, '.', ['b has no videos']),
  'spaces': (
    ['a b/x.mp4', 'a  b/y.mp4'], {}, '.', ["the classes 'a  b' and 'a b', which differ only in"],
  ),
  'spaces at the end': (
    ['train/a/x.mp4', 'val/a /y.mp4'], {}, '.', ["the classes 'a' and 'a ', which differ only"],
  ),
  'spaces in csv': (
    (), {'v.csv': 'path,label\nx.mp4,a b\ny.mp4,a  b\n'}, 'v.csv',
    ["v.csv label has the classes 'a  b' and 'a b'"],
  ),
  'only gifs': (
    (), {'a/x.gif': ''}, '.', ['has no videos', "left out: 1 .gif, not read: convert", "'a/x.gif'"],
  ),
  'not a csv': (['x.mp4'], {}, 'x.mp4', ['x.mp4 is a file: give the folder']),
  'no path': ((), {'v.csv': 'file,label\nx.mp4,a\n'}, 'v.csv', ["v.csv:1 has no column 'path'"]),
  'no classes in csv': ((), {'v.csv': 'path,start\nx.mp4,1\n'}, 'v.csv', ['no column with class']),
  'empty csv': ((), {'v.csv': 'path,label\n'}, 'v.csv', ['v.csv lists no videos']),
  'nothing in csv': ((), {'v.csv': ''}, 'v.csv', ["v.csv:1 has no column 'path'"]),
  'short row': ((), {'v.csv': 'path,label\nx.mp4\n'}, 'v.csv', ['v.csv:2 has 1 cells, need 2']),
  'broken quotes': ((), {'v.csv': 'path,label\n"x.mp4,a\n'}, 'v.csv', ['v.csv:2 is not valid CSV']),
  'outside': ((), {'v.csv': 'path,label\n../x.mp4,a\n'}, 'v.csv', ["v.csv:2 path '../x.mp4' must"]),
  'no class': ((), {'v.csv': 'path,label\nx.mp4,\n'}, 'v.csv', ['v.csv:2 label is empty']),
  'time': ((), {'v.csv': 'path,start,label\nx.mp4,soon,a\n'}, 'v.csv', ["v.csv:2 start='soon'"]),
  'backwards': (
    (), {'v.csv': 'path,start,end,label\nx.mp4,2,1,a\n'}, 'v.csv', ['v.csv:2 end=1.0', 'start=2.0'],
  ),
  'split': ((), {'v.csv': 'path,split,label\nx.mp4,dev,a\n'}, 'v.csv', ["v.csv:2 split='dev'"]),
  'two columns of tags': (
    (), {'v.csv': 'path,a,b\nx.mp4,r|s,t\n'}, 'v.csv', ['multi-label CSV must have one'],
  ),
  'all missing': (
    ['y.mp4'], {'v.csv': 'path,label\nx.mp4,a\n'}, 'v.csv',
    ['none of the 1 annotated videos is in', "v.csv:2 names 'x.mp4'"],
  ),
  'would overwrite itself': (
    ['x.mp4'], {'train.csv': 'path,label\nx.mp4,a\n'}, 'train.csv',
    ['train.csv is an annotation file and would be overwritten'],
  ),
  'would delete itself': (
    ['x.mp4'], {'missing.csv': 'path,label\nx.mp4,a\n'}, 'missing.csv',
    ['missing.csv is an annotation file and would be overwritten'],
  ),
  'head is no name': (
    ['x.mp4'], {'v.csv': 'path,../a\nx.mp4,b\n'}, 'v.csv', ["'../a' is not a valid head name"],
  ),
  'latin-1': ((), {'v.csv': b'path,label\nx.mp4,caf\xe9\n'}, 'v.csv', ['v.csv is not UTF-8 text']),
  'line break': (['a/x\ny.mp4', 'a/z.mp4'], {}, '.', ["'a/x\\ny.mp4' cannot be written to"]),
}  # fmt: skip


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_one_line_that_names_them(name, tmp_path, place, capsys):
  videos, files, source, said = MISTAKES[name]
  place(tmp_path, *videos)
  for path, text in files.items():
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(text if isinstance(text, bytes) else text.encode())
  before = sorted(tmp_path.rglob('*'))
  message = mistake(capsys, tmp_path / source)
  for part in said:
    assert part in message
  assert sorted(tmp_path.rglob('*')) == before


def test_a_file_name_of_another_encoding_is_named(tmp_path, place, capsys):
  place(tmp_path, 'a/x.mp4', 'a/caf\udce9.mp4')
  assert 'cannot be written to a manifest' in mistake(capsys, tmp_path)


def test_unknown_format(tmp_path, capsys):
  assert '--format=kinetik is unknown' in mistake(capsys, tmp_path, '--format=kinetik')
