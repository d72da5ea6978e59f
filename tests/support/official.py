# SPDX-License-Identifier: Apache-2.0
"""Tiny copies of public data sets in their exact layout, of real videos: names, files, columns."""

import json
import shutil
from pathlib import Path

from support.videos import write_video

LENGTH = 12  # frames of a video that is one example, at 10 frames per second


def _fill(folder: Path, paths, codec: str = 'libx264', **options) -> None:
  """Writes one video and copies it to all paths, which share a suffix."""
  first, *others = [folder / path for path in paths]
  write_video(first, LENGTH, codec=codec, **options)
  for other in others:
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(first, other)


def _write(file: Path, *lines: str, newline: str = '\n') -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_bytes(''.join(line + newline for line in lines).encode())


def kinetics(root: Path) -> None:
  """As the CVDF copy; one video is missing, one is not cut, the test set has no labels."""
  header = 'label,youtube_id,time_start,time_end,split,is_cc'
  _write(
    root / 'annotations' / 'train.csv',
    header,
    'testifying,---QUuC4vJs,84,94,train,0',
    '"dancing, any",-0A_b-9xyz0,0,10,train,0',
    "massaging person's head,gone00000-0,3,13,train,1",
    "massaging person's head,whole_00000,1,2,train,0",
    'testifying,_cut-000000,7,17,train,0',
  )
  _write(
    root / 'annotations' / 'val.csv',
    header,
    'testifying,valtestif-0,5,15,val,0',
    '"dancing, any",_valdance-0,100,110,val,0',
  )
  _write(
    root / 'annotations' / 'test.csv',
    'youtube_id,time_start,time_end,split',
    'unlabelled0,0,10,test',
  )
  names = (
    *('train/testifying/---QUuC4vJs_000084_000094', 'train/dancing_any/-0A_b-9xyz0_000000_000010'),
    *('train/testifying/_cut-000000', 'val/valtestif-0_000005_000015'),
    'val/_valdance-0_000100_000110',
  )
  _fill(root, [f'{name}.mp4' for name in names])
  write_video(root / 'train/whole_00000.mp4', 30)


def something_something(root: Path, prefix: str = '') -> None:
  """As its owner distributes it: labels/ and a folder of VP9 in WebM."""
  templates = {
    'Holding something next to something': '1',
    'Approaching something with your camera': '0',
    'Pushing something from left to right': '2',
  }
  train = [
    ('78687', 'Holding [something] next to [something]', 'holding potato next to bottle'),
    ('42326', 'Pushing [something] from left to right', 'pushing spoon from left to right'),
    ('100904', 'Approaching [something] with your camera', 'approaching a mug'),
  ]
  validation = [('74225', 'Holding [something] next to [something]', 'holding a, next to b')]

  def entries(videos):
    return json.dumps(
      [
        {'id': video, 'label': label, 'template': template, 'placeholders': ['a', 'b']}
        for video, template, label in videos
      ]
    )

  labels = root / 'labels'
  _write(labels / f'{prefix}labels.json', json.dumps(templates))
  _write(labels / f'{prefix}train.json', entries(train))
  _write(labels / f'{prefix}validation.json', entries(validation))
  _write(labels / f'{prefix}test.json', json.dumps([{'id': '1420'}]))
  videos = [video for video, *_ in train + validation] + ['1420']
  _fill(
    root / '20bn-something-something-v2',
    [f'{video}.webm' for video in videos],
    codec='libvpx-vp9',
    deadline='realtime',
  )


def epic_kitchens(root: Path) -> None:
  """Long videos by participant, annotations in a repository of their own."""
  columns = (
    'narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,'
    'start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes'
  )
  tap = "take tap,take,1,tap,0,['tap'],[0]"
  place = root / 'epic-kitchens-100-annotations'
  _write(
    place / 'EPIC_100_train.csv',
    columns,
    'P01_01_0,P01,P01_01,00:00:01.089,00:00:00.14,00:00:01.37,8,82,open door,open,1,door,2,'
    "['door'],[2]",
    'P01_01_1,P01,P01_01,00:00:02.629,00:00:01.20,00:00:02.40,92,181,"turn on light, dim",'
    'turn-on,0,light,1,"[\'light\', \'lamp\']","[1, 0]"',
    f'P30_107_5,P30,P30_107,00:00:00.50,00:00:00.00,00:00:01.10,0,66,{tap}',
  )
  _write(
    place / 'EPIC_100_validation.csv',
    columns,
    f'P01_11_0,P01,P01_11,00:00:00.00,00:00:00.00,00:00:01.00,0,60,{tap}',
    f'P01_12_0,P01,P01_12,01:02:03.40,01:02:03.45,01:02:04.00,0,60,{tap}',
  )
  _write(
    place / 'EPIC_100_verb_classes.csv',
    'id,key,instances,category',
    "0,turn-on,\"['turn-on', 'start']\",access",
    "1,take,\"['take', 'collect']\",retrieve",
  )
  _write(
    place / 'EPIC_100_noun_classes.csv',
    'id,key,instances,category',
    '0,tap,"[\'tap\']",appliances',
    '1,light,"[\'light\']",appliances',
    '2,meat:ball,"[\'meat:ball\']",meat',
  )
  _write(place / 'EPIC_100_test_timestamps.csv', 'narration_id,participant_id,video_id')
  for path in ('P01/videos/P01_01.MP4', 'P30/videos/P30_107.MP4', 'P01/videos/P01_11.MP4'):
    write_video(root / 'EPIC-KITCHENS' / path, 40)


def moments_in_time(root: Path) -> None:
  """As in Moments_in_Time_Raw.zip."""
  _write(root / 'moments_categories.txt', 'clapping,0', 'adult+female+singing,2', 'praying,1')
  _write(
    root / 'trainingSet.csv',
    'clapping/0-0-1-2-5-0-7_27.mp4,clapping,3,1',
    'praying/getty-karate-video-id635808620_4.mp4,praying,4,0',
    'adult+female+singing/yt-5of6ffo6-Bw_205.mp4,adult+female+singing,3,0',
  )
  _write(root / 'validationSet.csv', 'clapping/0-0-1-2-5-0-7_27.mp4,clapping,3,0')
  paths = ('clapping/0-0-1-2-5-0-7_27', 'praying/getty-karate-video-id635808620_4',
           'adult+female+singing/yt-5of6ffo6-Bw_205')  # fmt: skip
  paths = [*(f'training/{path}' for path in paths), 'validation/clapping/0-0-1-2-5-0-7_27']
  _fill(root, [f'{path}.mp4' for path in paths])


def ucf101(root: Path) -> None:
  """UCF101.rar and ucfTrainTestlist, whose lines end as in Windows; MPEG-4 in AVI."""
  lists = root / 'ucfTrainTestlist'
  names = ('Archery', 'ApplyEyeMakeup', 'YoYo')
  _write(
    lists / 'classInd.txt', *(f'{i} {name}' for i, name in enumerate(names, 1)), newline='\r\n'
  )
  train = [f'{name}/v_{name}_g08_c01.avi {i}' for i, name in enumerate(names, 1)]
  test = [f'{name}/v_{name}_g01_c01.avi' for name in names]
  _write(lists / 'trainlist01.txt', *train, newline='\r\n')
  _write(lists / 'testlist01.txt', *test, newline='\r\n')
  other = [f'{line} {i}' for i, line in enumerate(test, 1)]
  _write(lists / 'trainlist02.txt', *other, newline='\r\n')
  _write(lists / 'testlist02.txt', train[0].split()[0], newline='\r\n')
  videos = [line.split()[0] for line in train] + test
  _fill(root / 'UCF-101', videos, codec='mpeg4')


COPIES = {
  'kinetics': kinetics,
  'something_something': something_something,
  'epic_kitchens': epic_kitchens,
  'moments_in_time': moments_in_time,
  'ucf101': ucf101,
}
