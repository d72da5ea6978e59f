# SPDX-License-Identifier: Apache-2.0
"""Class-balanced order: every class equally often, a function of seed and position alone."""

import dataclasses
from collections import Counter

from support.streams import assert_equal
from support.videos import config, write_dataset
from vivit_jax.config.schema import Config, Data
from vivit_jax.data.manifest import Manifest, Video, read_manifest
from vivit_jax.data.order import video_order
from vivit_jax.data.pipeline import train_batches


def manifest(labels, class_names, multi_label=False):
  videos = tuple(Video(f'{k}.mp4', None, None, own) for k, own in enumerate(labels))
  return Manifest('train', videos, class_names, '0' * 16, multi_label)


def shown(data, count, head='label', seed=0):
  order = video_order(data, Config(seed=seed, data=Data(balance=head)))
  return [order[k] for k in range(count)]


# Of 'a' 1 video, of 'b' 2, of 'c' none, of 'd' 9.
RARE = manifest([(0,), (1,), (1,), *[(3,)] * 9], {'label': ('a', 'b', 'c', 'd')})


def test_every_class_with_a_video_comes_once_in_each_group():
  videos = shown(RARE, 3 * 18)
  classes = [RARE.videos[k].labels[0] for k in videos]
  groups = [tuple(classes[k : k + 3]) for k in range(0, len(classes), 3)]
  assert all(sorted(group) == [0, 1, 3] for group in groups)
  assert len(set(groups)) > 3, 'the order within a group changes'
  assert Counter(videos) == {0: 18, 1: 9, 2: 9} | dict.fromkeys(range(3, 12), 2)


def test_an_order_is_a_function_of_seed_and_position():
  assert shown(RARE, 60) == shown(RARE, 60)
  assert shown(RARE, 60) != shown(RARE, 60, seed=1)
  order = video_order(RARE, Config(data=Data(balance='label')))
  assert [order[k] for k in (50, 3, 10**12)][:2] == [shown(RARE, 60)[k] for k in (50, 3)]


def test_of_several_heads_the_named_one_is_balanced():
  heads = {'verb': ('run', 'sit'), 'noun': ('dog', 'cat', 'cow')}
  data = manifest([(0, 0), (0, 1), (0, 2), (1, 0)], heads)
  verbs = Counter(data.videos[k].labels[0] for k in shown(data, 24, 'verb'))
  nouns = Counter(data.videos[k].labels[1] for k in shown(data, 24, 'noun'))
  assert verbs == {0: 12, 1: 12}
  assert nouns == {0: 8, 1: 8, 2: 8}


def test_a_video_counts_for_each_tag_and_no_tag_is_a_class():
  data = manifest([(0, 1), (0,), (), ()], {'tags': ('x', 'y')}, multi_label=True)
  found = Counter(shown(data, 24, 'tags'))  # x: 0 or 1, y: 0, none: 2 or 3
  assert found == {0: 12, 1: 4, 2: 4, 3: 4}


def test_balanced_batches_do_not_depend_on_workers_or_resuming(tmp_path):
  root = write_dataset(tmp_path / 'data', 5)  # three a, two b
  settings = config(batch_size=4)

  def batches(start=0, workers=0):
    data = dataclasses.replace(settings.data, balance='label', workers=workers)
    whole = dataclasses.replace(settings, data=data)
    read = read_manifest(root, 'train', whole.task)
    return list(train_batches(read, whole, start_step=start, stop_step=4, rows=range(4)))

  reference = batches()
  assert all(Counter(b['label'][:, 0].tolist()) == {0: 2, 1: 2} for b in reference)
  assert_equal(batches(workers=2), reference)
  assert_equal(batches(start=3), reference[3:])


def test_without_balance_nothing_has_changed():
  """Seeds of the order are those of earlier versions: their runs go on as they began."""
  data = manifest([(0,)] * 6, {'label': ('a',)})
  order = video_order(data, Config())
  assert [int(order[k]) for k in range(12)] == [5, 3, 1, 0, 4, 2, 3, 5, 4, 1, 0, 2]
