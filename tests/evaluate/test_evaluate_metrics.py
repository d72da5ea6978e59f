# SPDX-License-Identifier: Apache-2.0
"""Metrics against brute force and scikit-learn: ties, clipped top-5, joint ranks, empty classes."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, top_k_accuracy_score

from vivit_jax.config.schema import Evaluate, Task
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.metrics import compute, confusion, most_confident_mistakes
from vivit_jax.evaluate.ranks import hits, ranks

PROTOCOL = Evaluate(temporal_views=1, spatial_views=1)


def one_view(logits, labels, task, failures=()):
  """Returns predictions of one view per video; a row of labels -1 is a video never seen."""
  seen = (labels >= 0).all(axis=1)
  single = task.kind == 'single_label'
  clip_hits = (
    hits(logits[seen], labels[seen], task).sum(axis=0) if single else np.zeros((0, 2), int)
  )
  return Predictions(
    logit_sums=np.where(seen[:, None], logits, 0.0).astype(np.float64),
    views=seen.astype(np.int64),
    labels=labels,
    clip_hits=clip_hits,
    failures=failures,
  )


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def test_top1_and_top5_equal_scikit_learn(rng):
  logits, labels = rng.normal(size=(200, 20)), rng.integers(20, size=(200, 1))
  task = Task(classes=(20,))
  got = compute(one_view(logits, labels, task), task, Evaluate())
  for k in (1, 5):
    expected = top_k_accuracy_score(labels[:, 0], logits, k=k, labels=np.arange(20))
    assert got[f'top{k}'] == got['tasks']['label'][f'clip_top{k}'] == pytest.approx(expected)
  assert got['views'] == {'temporal': 4, 'spatial': 3}
  assert (got['videos'], got['clips'], got['skipped']) == (200, 200, 0)
  assert set(got['tasks']) == {'label'}


@pytest.mark.parametrize('sizes', [(4, 9), (2, 3), (1, 7), (3, 4, 5), (1, 1)])
def test_joint_metric_equals_brute_force_over_all_combinations(rng, sizes):
  task = Task(heads=('a', 'b', 'c')[: len(sizes)], classes=sizes, joint='all')
  n = 150
  logits = 0.7 * rng.normal(size=(n, sum(sizes)))
  labels = np.stack([rng.integers(size, size=n) for size in sizes], axis=1)
  got = compute(one_view(logits, labels, task), task, PROTOCOL)
  parts = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
  top1, top5 = 0, 0
  for i in range(n):
    tables = [softmax(part[i]) for part in parts]
    chances = {
      combination: np.prod([table[c] for table, c in zip(tables, combination, strict=True)])
      for combination in itertools.product(*map(range, sizes))
    }
    first = sorted(chances, key=chances.get, reverse=True)[:5]
    top1 += first[0] == tuple(labels[i])
    top5 += tuple(labels[i]) in first
  assert got['tasks']['all']['top1'] == got['top1'] == top1 / n
  if math.prod(sizes) > 5:
    assert got['tasks']['all']['top5'] == got['top5'] == top5 / n
  else:
    assert 'top5' not in got
  heads_right = [part.argmax(1) == labels[:, i] for i, part in enumerate(parts)]
  assert got['top1'] == np.all(heads_right, axis=0).mean()
  assert set(got['tasks']) == {*task.heads, 'all'}


def test_joint_top5_at_the_size_of_epic_kitchens(rng):
  task = Task(heads=('verb', 'noun'), classes=(97, 300), joint='action')
  logits = rng.normal(size=(6, 397)).astype(np.float32)
  products = (
    softmax(logits[:, :97].astype(float))[:, :, None]
    * softmax(logits[:, 97:].astype(float))[:, None]
  )
  order = np.argsort(-products.reshape(6, -1), axis=1)
  for place in (0, 1, 3, 4, 5, 20, 29_099):
    labels = np.stack(np.unravel_index(order[:, place], (97, 300)), axis=1)
    np.testing.assert_array_equal(hits(logits, labels, task)[:, 2, 0], place < 1)
    np.testing.assert_array_equal(hits(logits, labels, task)[:, 2, 1], place < 5)


def test_a_constant_predictor_scores_one_class_only():
  labels = np.stack([np.arange(20) % 10, np.arange(20) // 2], axis=1)
  task = Task(heads=('verb', 'noun'), classes=(10, 10), joint='action')
  got = compute(one_view(np.zeros((20, 20)), labels, task), task, PROTOCOL)
  assert got['tasks']['verb']['top1'] == got['tasks']['noun']['top1'] == 0.1
  assert got['tasks']['verb']['top5'] == 0.5
  assert got['tasks']['action']['top1'] == 0.05
  # The first five of the tied combinations are (0, 0) to (0, 4).
  expected = np.mean((labels[:, 0] == 0) & (labels[:, 1] < 5))
  assert got['tasks']['action']['top5'] == expected


@pytest.mark.parametrize(('classes', 'shown'), [(2, False), (5, False), (6, True)])
def test_top5_is_reported_only_of_more_than_five_classes(rng, classes, shown):
  task = Task(heads=('a', 'b'), classes=(classes, 9))
  labels = np.stack([rng.integers(classes, size=20), rng.integers(9, size=20)], axis=1)
  got = compute(one_view(rng.normal(size=(20, classes + 9)), labels, task), task, PROTOCOL)
  for scores in (got, got['tasks']['a']):
    assert {'top1', 'clip_top1'} <= set(scores)
    assert ('top5' in scores, 'clip_top5' in scores) == (shown, shown)
  assert {'top5', 'clip_top5'} <= set(got['tasks']['b'])


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_non_finite_logits_rank_worst(bad):
  logits = np.array([[bad, 1.0, 2.0], [bad, 1.0, 2.0], [bad, bad, bad]])
  assert ranks(logits, np.array([0, 1, 0])).tolist() == [3, 1, 3]
  task = Task(classes=(3,))
  predictions = one_view(logits, np.array([[0], [2], [0]]), task)
  got = compute(predictions, task, PROTOCOL)
  assert got['top1'] == pytest.approx(1 / 3)
  assert hits(logits, np.array([[0], [2], [0]]), task)[:, 0, 1].tolist() == [False, True, False]
  assert confusion(predictions, task, 'label').tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 1]]
  joint = Task(heads=('a', 'b'), classes=(3, 3), joint='both')
  both = hits(np.tile(logits, (1, 2)), np.array([[0, 2], [2, 2], [2, 2]]), joint)
  assert both[:, 2].tolist() == [[False, False], [True, True], [False, False]]


def test_a_single_class_is_always_right():
  task = Task(classes=(1,))
  predictions = one_view(np.ones((3, 1)), np.zeros((3, 1), int), task)
  got = compute(predictions, task, PROTOCOL)
  assert got['top1'] == 1.0
  assert hits(np.ones((3, 1)), np.zeros((3, 1), int), task).all()
  assert confusion(predictions, task, 'label').tolist() == [[3]]
  assert most_confident_mistakes(predictions, task, {'label': ('only',)}, 5) == []


def test_videos_never_seen_are_skipped_and_counted(rng):
  logits, labels = rng.normal(size=(30, 6)), rng.integers(6, size=(30, 1))
  task = Task(classes=(6,))
  whole = compute(one_view(logits[:20], labels[:20], task), task, PROTOCOL)
  labels[20:] = -1
  part = compute(one_view(logits, labels, task), task, PROTOCOL)
  assert part['skipped'] == 10
  assert part | {'skipped': 0} == whole
  labels[:] = -1
  nothing = compute(one_view(logits, labels, task), task, PROTOCOL)
  assert np.isnan(nothing['top1'])
  assert nothing['videos'] == 0


def test_views_count_by_their_mean_logits():
  task = Task(heads=('a', 'b'), classes=(2, 2), joint='both')
  labels = np.zeros((1, 2), int)
  predictions = one_view(np.array([[8.0, 4.0, 0.0, 4.0]]), labels, task)
  twice = predictions.merge(predictions)
  np.testing.assert_array_equal(twice.mean_logits(), predictions.mean_logits())
  names = {'a': 'xy', 'b': 'xy'}
  assert most_confident_mistakes(twice, task, names, 1) == most_confident_mistakes(
    predictions, task, names, 1
  )


def test_mean_average_precision_equals_scikit_learn(rng):
  logits = rng.normal(size=(80, 9))
  labels = (rng.random((80, 9)) < 0.2).astype(np.float32)
  labels[:, [3, 5]] = 0
  task = Task(kind='multi_label', classes=(9,))
  got = compute(one_view(logits, labels, task), task, PROTOCOL)
  kept = [c for c in range(9) if c not in (3, 5)]
  expected = average_precision_score(labels[:, kept].astype(int), logits[:, kept], average='macro')
  assert got['mAP'] == pytest.approx(expected)
  assert got['tasks']['label']['classes_without_positives'] == 2
  assert got['tasks']['label']['average_precision'][3] is None
  assert 'top1' not in got


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_mean_average_precision_puts_non_finite_last(bad):
  labels = np.array([[1], [1], [0], [0]], np.float32)
  task = Task(kind='multi_label', classes=(1,))
  got = compute(one_view(np.array([[bad], [3.0], [2.0], [1.0]]), labels, task), task, PROTOCOL)
  assert got['mAP'] == average_precision_score(labels[:, 0], [0.0, 3.0, 2.0, 1.0])
  none = compute(one_view(np.zeros((4, 1)), np.zeros((4, 1), 'f4'), task), task, PROTOCOL)
  assert np.isnan(none['mAP'])


def test_confusion_equals_scikit_learn(rng):
  task = Task(heads=('verb', 'noun'), classes=(4, 7))
  logits = rng.normal(size=(90, 11))
  labels = np.stack([rng.integers(4, size=90), rng.integers(6, size=90)], axis=1)
  got = confusion(one_view(logits, labels, task), task, 'noun')
  expected = confusion_matrix(labels[:, 1], logits[:, 4:].argmax(1), labels=np.arange(7))
  np.testing.assert_array_equal(got, expected)


def test_most_confident_mistakes_of_joint_heads(rng):
  task = Task(heads=('verb', 'noun'), classes=(3, 4), joint='action')
  names = {'verb': ('run', 'sit', 'eat'), 'noun': ('cat', 'dog', 'cow', 'hen')}
  logits = rng.normal(size=(40, 7))
  labels = np.stack([rng.integers(3, size=40), rng.integers(4, size=40)], axis=1)
  labels[0] = -1
  expected = []
  for i in range(1, 40):
    verb, noun = softmax(logits[i, :3]), softmax(logits[i, 3:])
    if (verb.argmax(), noun.argmax()) != tuple(labels[i]):
      expected.append((-verb.max() * noun.max(), i))
  got = most_confident_mistakes(one_view(logits, labels, task), task, names, 6)
  assert [mistake.video for mistake in got] == [i for _, i in sorted(expected)[:6]]
  np.testing.assert_allclose([m.confidence for m in got], [-p for p, _ in sorted(expected)[:6]])
  first = got[0].video
  verb, noun = labels[first]
  assert got[0].truth == f'{names["verb"][verb]} · {names["noun"][noun]}'


def test_most_confident_false_alarms_of_a_multi_label_task():
  task = Task(kind='multi_label', classes=(3,))
  logits = np.array([[5.0, -900.0, 1.0], [-3.0, -2.0, -9.0], [9.0, 8.0, 7.0], [np.nan, 1, 1]])
  labels = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]], np.float32)
  got = most_confident_mistakes(
    one_view(logits, labels, task), task, {'label': ('red', 'blue', 'green')}, 9
  )
  assert [(m.video, m.truth, m.predicted) for m in got] == [
    (0, 'blue, green', 'red'),
    (1, 'red', 'blue'),
  ]
  np.testing.assert_allclose([m.confidence for m in got], 1 / (1 + np.exp([-5.0, 2.0])))


@pytest.fixture
def rng():
  return np.random.default_rng(0)
