# SPDX-License-Identifier: Apache-2.0
"""Official annotations: each form as a tiny copy is indexed, trained on and evaluated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support import official
from support.indexes import contents, finetune, mistake, rows
from support.videos import numbers
from vivit_jax.cli.data_index import RECIPES
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Task
from vivit_jax.data.manifest import read_manifest
from vivit_jax.train.loop import train

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
  """One tiny copy per data set; tests that change one copy it first."""
  root = tmp_path_factory.mktemp('official')
  for name, make in official.COPIES.items():
    make(root / name)
  return root


@pytest.fixture
def copy(copies, tmp_path):
  """A function that gives a copy of one's own."""

  def give(name):
    return shutil.copytree(copies / name, tmp_path / name)

  return give


def index(*arguments):
  assert main(['data', 'index', *map(str, arguments)]) == 0


HEADS = {'epic_kitchens': ('verb', 'noun')}
VIDEOS = {  # of train and validation that are there
  'kinetics': (4, 2),
  'something_something': (3, 1),
  'epic_kitchens': (3, 1),
  'moments_in_time': (3, 1),
  'ucf101': (3, 3),
}


@pytest.mark.usefixtures('one_device', 'compiled_once')
@pytest.mark.parametrize('name', official.COPIES)
def test_indexed_trained_and_evaluated(name, copies, tmp_path, capsys):
  data = tmp_path / 'data'
  index(copies / name, f'--output={data}')
  heads = HEADS.get(name, ('label',))
  first, *_, command = capsys.readouterr().out.splitlines()
  assert first == f'{name}: {copies / name}'
  settings = {'augment__flip': 'off'}
  if len(heads) > 1:
    assert """--config.task.heads="('verb','noun')" --config.task.joint=action""" in command
    settings |= {'task__heads': str(heads), 'task__joint': 'action'}
  config = finetune(data, **settings)
  results = train(config, tmp_path / 'run')
  assert results['step'] == 5
  assert (results['videos'], results['skipped']) == (VIDEOS[name][1], 0)
  assert set(results['tasks']) == ({'verb', 'noun', 'action'} if len(heads) > 1 else {'label'})
  assert not (tmp_path / 'run' / 'skipped.csv').exists()
  counts = {'verb': 2, 'noun': 3, 'action': 6, 'label': 3}
  assert all(task['classes'] == counts[head] for head, task in results['tasks'].items())
  report = json.loads((tmp_path / 'run' / 'report.json').read_text())
  assert report['top1'] == results['top1']
  for split, count in zip(('train', 'validation'), VIDEOS[name], strict=True):
    assert len(read_manifest(data, split, Task(heads=heads, classes=())).videos) == count


def test_kinetics(copies, tmp_path, capsys):
  index(copies / 'kinetics', f'--output={tmp_path}')
  assert rows(tmp_path / 'train.csv') == [
    ['path', 'start', 'end', 'label'],
    ['videos/train/testifying/---QUuC4vJs_000084_000094.mp4', '', '', 'testifying'],
    ['videos/train/dancing_any/-0A_b-9xyz0_000000_000010.mp4', '', '', 'dancing, any'],
    ['videos/train/whole_00000.mp4', '1', '2', "massaging person's head"],
    ['videos/train/testifying/_cut-000000.mp4', '', '', 'testifying'],
  ]
  assert [row[0] for row in rows(tmp_path / 'validation.csv')[1:]] == [
    'videos/val/valtestif-0_000005_000015.mp4',
    'videos/val/_valdance-0_000100_000110.mp4',
  ]
  assert rows(tmp_path / 'missing.csv')[1:] == [
    ['train', 'gone00000-0_000003_000013', f'{copies}/kinetics/annotations/train.csv:4'],
  ]
  labels = (tmp_path / 'classes/label.txt').read_text().splitlines()
  assert labels == ['dancing, any', "massaging person's head", 'testifying']
  assert not (tmp_path / 'test.csv').exists()
  out = capsys.readouterr().out
  assert 'test.csv has no labels: left out' in out
  table = [line.split() for line in out.splitlines()]
  assert ['train', '4', '1', 'label', '3', '-'] in table
  assert ['validation', '2', '0', 'label', '3', '1:', 'massaging', "person's", 'head'] in table
  with read_manifest(tmp_path, 'train', Task(classes=())).open(2) as reader:
    assert numbers(reader.read(np.arange(reader.frames))).tolist() == list(range(10, 20))


def test_kinetics_ids_do_not_depend_on_what_is_there(copy):
  data = copy('kinetics')
  for file in data.glob('train/testifying/*.mp4'):
    file.unlink()
  index(data)
  names = (data / 'classes/label.txt').read_text().splitlines()
  assert names == ['dancing, any', "massaging person's head", 'testifying']
  assert len(rows(data / 'train.csv')) == 3


def test_a_video_in_two_splits_is_that_of_its_own(copy):
  data = copy('kinetics')
  for split in ('train', 'val'):
    shutil.copy(data / 'val/valtestif-0_000005_000015.mp4', data / split / 'twice000000.mp4')
  for split in ('train', 'val'):
    with (data / f'annotations/{split}.csv').open('a') as file:
      file.write(f'testifying,twice000000,0,10,{split},0\n')
  index(data)
  for file, split in (('train', 'train'), ('validation', 'val')):
    assert rows(data / f'{file}.csv')[-1][0] == f'{split}/twice000000.mp4'


def test_something_something(copies, tmp_path):
  index(copies / 'something_something', f'--output={tmp_path}')
  assert rows(tmp_path / 'train.csv')[1:] == [
    [f'videos/20bn-something-something-v2/{video}.webm', '', '', label]
    for video, label in (
      ('78687', 'Holding something next to something'),
      ('42326', 'Pushing something from left to right'),
      ('100904', 'Approaching something with your camera'),
    )
  ]
  manifest = read_manifest(tmp_path, 'train', Task(classes=(3,)))
  assert [video.labels for video in manifest.videos] == [(1,), (2,), (0,)]  # ids of labels.json
  with manifest.open(0) as reader:
    assert numbers(reader.read(np.arange(reader.frames))).tolist() == list(range(official.LENGTH))


def test_something_something_of_earlier_downloads(tmp_path):
  official.something_something(tmp_path, 'something-something-v2-')
  answers = tmp_path / 'labels/something-something-v2-test-answers.csv'
  answers.write_text('1420;Holding something next to something\n')
  index(tmp_path)
  assert len(rows(tmp_path / 'train.csv')) == 4
  assert rows(tmp_path / 'test.csv')[1:] == [
    ['20bn-something-something-v2/1420.webm', '', '', 'Holding something next to something']
  ]


def test_epic_kitchens(copies, tmp_path):
  root = copies / 'epic_kitchens'
  annotations = f'--annotations={root}/epic-kitchens-100-annotations'
  index(root / 'EPIC-KITCHENS', annotations, f'--output={tmp_path}')
  assert rows(tmp_path / 'train.csv') == [
    ['path', 'start', 'end', 'verb', 'noun'],
    ['videos/P01/videos/P01_01.MP4', '0.14', '1.37', 'take', 'meat:ball'],
    ['videos/P01/videos/P01_01.MP4', '1.2', '2.4', 'turn-on', 'light'],
    ['videos/P30/videos/P30_107.MP4', '0', '1.1', 'take', 'tap'],
  ]
  missing = rows(tmp_path / 'missing.csv')[1:]
  assert [row[:2] for row in missing] == [['validation', 'P01_12.MP4']]
  assert missing[0][2].endswith('EPIC_100_validation.csv:3')
  task = Task(heads=('verb', 'noun'), classes=(2, 3))
  manifest = read_manifest(tmp_path, 'train', task)
  assert [video.labels for video in manifest.videos] == [(1, 2), (0, 1), (1, 0)]
  for i, shown in enumerate((range(2, 14), range(12, 24), range(11))):
    with manifest.open(i) as reader:
      assert numbers(reader.read(np.arange(reader.frames))).tolist() == list(shown)


def test_moments_in_time(copies, tmp_path):
  index(copies / 'moments_in_time', f'--output={tmp_path}')
  assert (tmp_path / 'classes/label.txt').read_text() == 'clapping\npraying\nadult+female+singing\n'
  assert [row[0] for row in rows(tmp_path / 'train.csv')[1:]] == [
    'videos/training/clapping/0-0-1-2-5-0-7_27.mp4',
    'videos/training/praying/getty-karate-video-id635808620_4.mp4',
    'videos/training/adult+female+singing/yt-5of6ffo6-Bw_205.mp4',
  ]
  assert rows(tmp_path / 'validation.csv')[1][0] == (
    'videos/validation/clapping/0-0-1-2-5-0-7_27.mp4'
  )


def test_ucf101(copies, tmp_path, capsys):
  root = copies / 'ucf101'
  index(root, f'--output={tmp_path}/one')
  assert 'testlist01.txt is validation.csv' in capsys.readouterr().out
  assert (tmp_path / 'one/classes/label.txt').read_text() == 'Archery\nApplyEyeMakeup\nYoYo\n'
  train = rows(tmp_path / 'one/train.csv')
  assert train[1] == ['videos/UCF-101/Archery/v_Archery_g08_c01.avi', '', '', 'Archery']
  lists = f'--annotations={root}/ucfTrainTestlist'
  index(root / 'UCF-101', lists, '--format=ucf101:2', f'--output={tmp_path}/two')
  train, validation = (rows(tmp_path / f'two/{split}.csv') for split in ('train', 'validation'))
  assert train[2][0] == 'videos/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi'
  assert [row[0] for row in validation[1:]] == ['videos/Archery/v_Archery_g08_c01.avi']


def test_a_whole_data_set_is_trained_by_its_own_recipe(copy, capsys):
  data = copy('ucf101')
  names = ['Archery', 'ApplyEyeMakeup', 'YoYo', *(f'Class{k}' for k in range(98))]
  lines = ''.join(f'{i} {name}\n' for i, name in enumerate(names, 1))
  (data / 'ucfTrainTestlist/classInd.txt').write_text(lines)
  index(data)
  command = capsys.readouterr().out.splitlines()[-1]
  assert command.startswith(f'vivit train --config=ucf101 --config.data.root={data} ')
  for recipe in RECIPES.values():
    assert (ROOT / 'configs' / f'{recipe}.py').is_file()


@pytest.mark.parametrize('name', official.COPIES)
def test_in_place_and_again(name, copy):
  data = copy(name)
  index(data)
  first = contents(data)
  index(data)
  assert contents(data) == first
  assert {'train.csv', 'validation.csv'} <= first.keys()


def edit(file, old, new):
  text = file.read_text()
  assert old in text
  file.write_text(text.replace(old, new, 1))


K, E, S = 'annotations', 'epic-kitchens-100-annotations/EPIC_100_', 'labels'
MISTAKES = {
  # name: (data set, file, what is replaced, by what, what the line must say)
  'label of validation alone': (
    'kinetics', f'{K}/val.csv', 'testifying,', 'testifing,',
    ["val.csv:2 label='testifing' is not one of the classes; did you mean 'testifying'?"],
  ),
  'kinetics without a column': (
    'kinetics', f'{K}/train.csv', 'time_end,', '', ["train.csv:1 has no column 'time_end'"],
  ),
  'kinetics time': (
    'kinetics', f'{K}/train.csv', ',84,94', ',84,x', ["train.csv:2 end='x' is not a time"],
  ),
  'kinetics split': (
    'kinetics', f'{K}/train.csv', '94,train', '94,dev', ["train.csv:2 split='dev' is not train"],
  ),
  'kinetics twice': (
    'kinetics', f'{K}/val.csv', '15,val', '15,train', ['both list train videos', '--annotations='],
  ),
  'broken json': (
    'something_something', f'{S}/train.json', '[', '[\n{', ['train.json:2 is not valid JSON'],
  ),
  'template unknown': (
    'something_something', f'{S}/train.json', 'Holding [', 'Hiding [',
    ["train.json: entry 1 label='Hiding something next to something' is not one of the classes"],
  ),
  'no template': (
    'something_something', f'{S}/validation.json', '"template"', '"tmpl"',
    ['validation.json: entry 1 has no id or no template'],
  ),
  'labels without number': (
    'something_something', f'{S}/labels.json', '"1"', '"one"',
    ['labels.json must map each template to its id'],
  ),
  'labels with a gap': (
    'something_something', f'{S}/labels.json', '"1"', '"7"',
    ['labels.json must have one class per id from 0 on: [1, 7]'],
  ),
  'epic time': (
    'epic_kitchens', f'{E}train.csv', '00:00:00.14', '0.14',
    ["EPIC_100_train.csv:2 start_timestamp='0.14' is not a time: need HH:MM:SS.ss"],
  ),
  'epic backwards': (
    'epic_kitchens', f'{E}train.csv', '00:00:01.37', '00:00:00.10',
    ['EPIC_100_train.csv:2 end=0.1 is not after start=0.14'],
  ),
  'epic class': (
    'epic_kitchens', f'{E}validation.csv', 'take,1', 'take,9',
    ['EPIC_100_validation.csv:2 verb_class=9 is not one of the 2 classes'],
  ),
  'epic column': (
    'epic_kitchens', f'{E}noun_classes.csv', 'key', 'name',
    ["EPIC_100_noun_classes.csv:1 has no column 'key'"],
  ),
  'moments label': (
    'moments_in_time', 'validationSet.csv', '.mp4,clapping', '.mp4,claping',
    ["validationSet.csv:1 label='claping' is not one", "did you mean 'clapping'?"],
  ),
  'moments row': (
    'moments_in_time', 'trainingSet.csv', '.mp4,praying,4,0', '.mp4',
    ['trainingSet.csv:2 has 1 cells, need 2 (path,label)'],
  ),
  'moments id': (
    'moments_in_time', 'moments_categories.txt', ',1', ',one',
    ["moments_categories.txt:3 id='one' is not a whole number"],
  ),
  'ucf101 class': (
    'ucf101', 'ucfTrainTestlist/trainlist01.txt', '.avi 2', '.avi 3',
    ["trainlist01.txt:2 ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi is of class"],
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_are_one_line_with_file_and_line(name, copy, capsys):
  data_set, file, old, new, said = MISTAKES[name]
  data = copy(data_set)
  edit(data / file, old, new)
  message = mistake(capsys, data)
  for part in said:
    assert part in message
  assert not (data / 'train.csv').exists()


def test_json_of_another_shape(copy, capsys):
  data = copy('something_something')
  (data / 'labels/train.json').write_text('{}')
  assert 'train.json must be a list of videos' in mistake(capsys, data)


def test_annotations_that_are_not_there_or_of_several_data_sets(copies, copy, tmp_path, capsys):
  message = mistake(capsys, copies / 'ucf101', '--format=kinetics')
  assert 'ucf101 has no annotations of --format=kinetics: it needs CSV files with' in message
  (tmp_path / 'empty').mkdir()
  message = mistake(capsys, copies / 'ucf101', f'--annotations={tmp_path}/empty')
  assert 'empty has no annotations in a known format (kinetics: CSV files' in message
  data = copy('ucf101')
  shutil.copytree(copies / 'kinetics/annotations', data / 'annotations')
  message = mistake(capsys, data)
  assert 'has annotations of kinetics and ucf101: choose with --format' in message
  shutil.copytree(data / 'ucfTrainTestlist', data / 'again')
  message = mistake(capsys, data, '--format=ucf101')
  assert 'choose a folder with --annotations=FOLDER' in message


def test_another_data_sets_annotations_find_no_video(copies, tmp_path, capsys):
  message = mistake(
    capsys, copies / 'moments_in_time', f'--annotations={copies}/kinetics', f'--output={tmp_path}'
  )
  assert 'none of the 7 annotated videos is in' in message
  assert "train.csv:2 names '---QUuC4vJs_000084_000094'" in message


def test_annotations_are_never_overwritten(copy, capsys):
  data = copy('kinetics')
  for file in (data / 'annotations').iterdir():
    file.rename(data / file.name)
  before = (data / 'train.csv').read_bytes()
  for force in ((), ('--force',)):
    assert 'train.csv is an annotation file' in mistake(capsys, data, *force)
  assert (data / 'train.csv').read_bytes() == before
