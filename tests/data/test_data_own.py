# SPDX-License-Identifier: Apache-2.0
"""A user's own source and augmentations: the same guarantees, and one line for each mistake."""

import dataclasses

import numpy as np
import pytest

from support import own
from support.streams import assert_equal
from support.videos import config
from vivit_jax.config.parse import parse
from vivit_jax.config.schema import Task
from vivit_jax.data.pipeline import evaluation_batches, train_batches
from vivit_jax.data.splits import evaluation_split, open_split, with_classes
from vivit_jax.errors import ConfigError, DataError

VERB_NOUN = Task(heads=('verb', 'noun'), classes=(2, 3))


def settings(source='Gray', custom=(), task=None, **data):
  found = config(source=f'support.own:{source}', **data)
  names = tuple(f'support.own:{name}' for name in custom)
  augment = dataclasses.replace(found.augment, custom=names)
  return dataclasses.replace(found, augment=augment, task=task or found.task)


def batches(found, start=0, stop=4):
  manifest = open_split(found, 'train')
  return list(train_batches(manifest, found, start_step=start, stop_step=stop, rows=range(4)))


@pytest.mark.parametrize('source, task', [('Gray', None), ('Named', VERB_NOUN)])
def test_own_batches_ignore_workers_and_resuming(source, task):
  reference = batches(settings(source, ['shift'], task))
  for workers, start in ((2, 0),) if task else ((0, 2), (2, 0), (4, 3)):
    changed = settings(source, ['shift'], task, workers=workers)
    assert_equal(batches(changed, start), reference[start:])
  for batch in reference:
    np.testing.assert_array_equal(batch['label'][:, 0], batch['id'] % 2)
    if task:
      np.testing.assert_array_equal(batch['label'][:, 1], batch['id'] % 3)
  failures = {failure for batch in reference for failure in batch['failures']}
  lost = ("support.own:Gray('train')[2]", "KeyError: 'clip 2 is lost' (own.py line 37)")
  assert failures == (set() if task else {lost})


def test_own_augmentation_draws_by_clip_and_changes_no_other():
  without, shifted = batches(settings()), batches(settings(custom=['shift']))
  steps = set()
  for a, b in zip(without, shifted, strict=True):
    added = (b['video'] - a['video']).reshape(4, -1)  # modulo 256
    assert (added == added[:, :1]).all()
    steps |= {int(step) for step in added[:, 0]}
  assert min(steps) >= 1
  assert len(steps) > 4


@pytest.mark.parametrize('workers', [0, 2])
def test_own_videos_are_evaluated_with_views(workers):
  found = settings(workers=workers)
  assert evaluation_split(found) == 'validation'  # `test` has no items
  stream = list(
    evaluation_batches(
      open_split(found, 'validation'), found, temporal_views=2, spatial_views=3, batch_size=6
    )
  )
  assert [bool(batch['mask'].all()) for batch in stream] == [i != own.BROKEN for i in range(7)]
  assert [failure[0] for b in stream for failure in b['failures']] == [
    "support.own:Gray('validation')[2]"
  ]
  first, last = stream[0]['video'][0], stream[0]['video'][-1]  # frames 0, 2, 4, 6 and 5, 7, 9, 11
  np.testing.assert_array_equal(first[:, 0, 0, 0], 10 + np.array([0, 2, 4, 6]))
  np.testing.assert_array_equal(last[:, 0, 0, 0], 10 + np.array([5, 7, 9, 11]))


def test_own_labels_may_be_tags_and_count_the_classes():
  found = settings('Tags', task=Task('multi_label', classes=()))
  assert with_classes(found).task.classes == (2,)
  batch = batches(found)[0]
  expected = [[i & 1, i >> 1 & 1] for i in batch['id']]
  np.testing.assert_array_equal(batch['label'], np.array(expected, np.float32))
  named = open_split(settings('Named', task=VERB_NOUN), 'train')
  assert [video.labels for video in named.videos] == [(i % 2, i % 3) for i in range(own.ITEMS)]
  assert named.items[3].times[1] == 0.1


def test_own_labels_in_advance_balance_classes():
  found = settings('Named', task=VERB_NOUN, balance='noun')
  batch = batches(found, stop=3)
  assert np.bincount(np.concatenate([b['label'][:, 1] for b in batch])).tolist() == [4, 4, 4]
  with pytest.raises(ConfigError, match="add an attribute 'labels' to your source"):
    batches(settings(balance='label'))


ITEM = r"support\.own:\w+\('train'\)\[3\]"


@pytest.mark.parametrize(
  'source, said',
  [
    ('OnlyFrames', rf'{ITEM} is ndarray: return \(frames, labels\)'),
    ('Floats', rf'{ITEM}: its frames are float64 \[12, 40, 48, 3\]: return'),
    ('Lists', rf'{ITEM}: its frames are list: return'),
    ('Gray3d', rf'{ITEM}: its frames are uint8 \[12, 40, 48\]: return'),
    ('NoFrames', rf'{ITEM}: its frames are uint8 \[0, 40, 48, 3\]: return'),
    ('TooHigh', rf'{ITEM}: label=2 is not from 0 to 1'),
    ('Misspelt', rf"{ITEM}: label='c' is not in its classes; choose from 'a', 'b'"),
    ('NoClass', rf'{ITEM}: label is float, not a class id or name'),
    ('TwoLabels', rf"{ITEM}: its labels are \(0, 1\), not one per head of \('label',\)"),
    ('Unlabelled', "has no attribute 'classes'"),
    ('Twice', "classes of 'label' must be a non-empty list of unique names"),
    ('WrongLabels', r'labels has 2 entries for 7 items'),
    ('Frozen', r'fps=0 is not a number of frames per second'),
    (
      'Lost',
      r'10 videos of the train split in a row .*\]: RuntimeError: the disk is gone \(own.py',
    ),
    (
      'Raises',
      r"cannot be constructed: support.own:Raises\('train'\) raised FileNotFoundError.*train.h5",
    ),
    ('Grey', "support.own has no 'Grey'; did you mean 'Gray'?"),
    ('NUMBER', 'is int, not a class or a function'),
    ('shift', r"shift\('train'\) raised TypeError"),
  ],
)
def test_a_bad_source_is_one_line(source, said):
  with pytest.raises((DataError, ConfigError), match=said) as caught:
    batches(settings(source), stop=8)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'source, said',
  [
    ('Longer', r'\[\d\]: the source has 8 items in this process, but 7 where the split was opened'),
    (
      'OnlyHere',
      r"'support.own:OnlyHere' cannot be constructed: .* raised OSError: one process only",
    ),
    ('Floats', rf'{ITEM}: its frames are float64'),
  ],
)
def test_a_source_that_fails_in_a_worker_is_one_line(source, said):
  with pytest.raises((DataError, ConfigError), match=said) as caught:
    batches(settings(source, workers=1), stop=8)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
  'name, said',
  [
    ('raises', r'raised ValueError: not today \(own.py line \d+\)'),
    ('shorter', r'returned uint8 \[3, 32, 32, 3\]: it must return .* uint8 \[4, 32, 32, 3\]'),
    ('floats', r'returned float64 \[4, 32, 32, 3\]'),
    ('nothing', 'returned NoneType'),
    ('shft', "has no 'shft'; did you mean 'shift'?"),
  ],
)
def test_a_bad_augmentation_is_one_line(name, said, workers):
  with pytest.raises((DataError, ConfigError), match=said) as caught:
    batches(settings('Tags', [name], Task('multi_label', classes=(2,)), workers=workers), stop=1)
  assert '\n' not in str(caught.value)
  if name != 'shft':
    assert "(support.own:Tags('train')[" in str(caught.value)


@pytest.mark.parametrize(
  'section, said',
  [
    ({'data': {'source': 'manifest'}}, "'manifest' is not a choice; did you mean 'manifests'?"),
    ({'data': {'source': 'a/b.py:C'}}, "'a/b.py:C' is not of the form 'module:name'"),
    ({'augment': {'custom': ['shift']}}, "'shift' is not of the form 'module:name'"),
    ({'data': {'source': '__main__:C'}}, 'cannot be imported by worker processes'),
  ],
)
def test_names_of_own_code_are_checked(section, said):
  with pytest.raises(ConfigError) as caught:
    parse(section)
  assert said in str(caught.value)


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
  (tmp_path / 'broken_module.py').write_text('import missing_package\n')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    ConfigError, match=r"ModuleNotFoundError: No module named 'missing_package' \(broken_module.py"
  ):
    open_split(config(source='broken_module:Videos'), 'train')
