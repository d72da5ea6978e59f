# SPDX-License-Identifier: Apache-2.0
"""The report's files: complete, self-contained, escaped, and drawable at 1 to 400 classes."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread

from vivit_jax.config.schema import Evaluate, Task
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.classes import ClassScore
from vivit_jax.evaluate.metrics import Mistake, compute, most_confident_mistakes, most_confused
from vivit_jax.evaluate.plots import draw_classes, draw_confusion, draw_curves, draw_strip
from vivit_jax.evaluate.ranks import hits
from vivit_jax.evaluate.report import ShownMistake, write_report

HOSTILE = '<script>alert("1")</script> & $x^{$'
ACTION = Task(heads=('verb', 'noun/x'), classes=(3, 4), joint='action')
NAMES = {'verb': ('run', HOSTILE, 'eat'), 'noun/x': ('cat', '犬', 'cow', 'hen')}
CURVES = [
  {'step': 20, 'loss': 2.3, 'top1': 0.1, 'top1_$x^{$': 0.2, 'clips_per_second': 30.0},
  {'step': 40, 'loss': None, 'top1': 0.4},
  {'step': 40, 'validation_loss': 1.9, 'validation_top1': 0.35},
  {'step': 60, 'loss': float('nan'), 'top1': 0.8},
  {'step': 80, 'loss': 0.5, 'seconds_step': 3000.0, 'seconds_input': 1000.0},
  {'step': 80, 'validation_loss': 0.9, 'validation_top1': 0.7},
]
VOID = {'meta', 'img', 'br'}


class Page(HTMLParser):
  """Reads a page, holding every tag to be closed and every attribute to be seen."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.addresses, self.text = [], [], [], ''
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [value for name, value in attrs if name in ('src', 'href')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def predict(rng, task, videos=30, failures=(('videos/<b>.mp4', 'no video stream'),)):
  logits = rng.normal(size=(videos, sum(task.classes)))
  if task.kind == 'multi_label':
    labels = (rng.random(logits.shape) < 0.3).astype(np.float32)
    labels[:, 0] = 0
    clip_hits = np.zeros((0, 2), int)
  else:
    labels = np.stack([rng.integers(n, size=videos) for n in task.classes], axis=1)
    clip_hits = hits(logits, labels, task).sum(axis=0)
  return Predictions(logits, np.ones(videos, int), labels, clip_hits, failures)


def write(folder, predictions, task, names, **changes):
  results = compute(predictions, task, Evaluate())
  found = most_confident_mistakes(predictions, task, names, 4)
  frames = np.random.default_rng(1).integers(0, 256, (12, 24, 32, 3), dtype=np.uint8)
  options = {
    'title': 'Digits & <co>',
    'predictions': predictions,
    'task': task,
    'class_names': names,
    'curves': CURVES,
    'mistakes': [ShownMistake(m, f'videos/{m.video}.mp4', frames) for m in found],
    'config': {'seed': 0, 'data': {'root': '</pre><script>'}},
  }
  return write_report(folder, results, **(options | changes)), results


def test_report_is_complete_and_self_contained(rng, tmp_path):
  path, results = write(tmp_path / 'a' / 'b', predict(rng, ACTION), ACTION, NAMES)
  expected = [
    *('classes_noun_x.png', 'classes_verb.png', 'confusion_noun_x.png', 'confusion_verb.png'),
    *('curves.png', 'report.html'),
  ]
  assert sorted(p.name for p in path.parent.iterdir()) == [*expected, 'report.json']
  for picture in path.parent.glob('*.png'):
    assert imread(picture).shape[0] > 200
  stored = json.loads((path.parent / 'report.json').read_text())
  assert stored.pop('failures') == [{'path': 'videos/<b>.mp4', 'reason': 'no video stream'}]
  classes = stored.pop('classes')
  assert {head: sorted(row['class'] for row in rows) for head, rows in classes.items()} == {
    head: sorted(names) for head, names in NAMES.items()
  }
  assert stored == results

  text = path.read_text()
  page = Page(text)
  assert page.open == []
  assert not re.search('https?://', text)
  assert len(page.addresses) == 5 + 4  # curves, two matrices, classes of two heads, four mistakes
  assert all(address.startswith('data:image/') for address in page.addresses)
  assert f'{100 * results["top1"]:.1f} %' in page.text
  assert 'videos/<b>.mp4' in page.text
  assert '3,00075.0 %' in page.text  # seconds and share of the steps


def test_names_from_files_are_text_and_never_markup(rng, tmp_path):
  path, _ = write(tmp_path, predict(rng, ACTION), ACTION, NAMES)
  page = Page(path.read_text())
  assert not {'script', 'b>', 'co'} & set(page.tags)
  assert HOSTILE in page.text
  assert 'Digits & <co>' in page.text
  assert '</pre><script>' in page.text


def test_multi_label_report_lists_every_class(rng, tmp_path):
  task = Task(kind='multi_label', classes=(3,))
  path, results = write(tmp_path, predict(rng, task), task, {'label': ('a', HOSTILE, 'c')})
  page = Page(path.read_text())
  assert f'{100 * results["mAP"]:.1f} %' in page.text
  assert HOSTILE in page.text
  assert 'n/a' in page.text  # the class without a positive
  assert not list(tmp_path.glob('confusion*'))


def test_nothing_scored_nothing_trained_still_gives_a_report(tmp_path):
  task = Task(classes=(2,))
  empty = Predictions(
    np.zeros((3, 2)), np.zeros(3, int), np.full((3, 1), -1), np.zeros((1, 2), int), ()
  )
  path, _ = write(tmp_path, empty, task, {'label': ('a', 'b')}, curves=[])
  stored = json.loads((tmp_path / 'report.json').read_text())
  assert stored['top1'] is None
  assert (stored['videos'], stored['skipped']) == (0, 3)
  assert not (tmp_path / 'curves.png').exists()
  assert Page(path.read_text()).open == []


def test_a_second_report_replaces_the_first(rng, tmp_path):
  write(tmp_path, predict(rng, ACTION), ACTION, NAMES)
  _, results = write(tmp_path, predict(rng, ACTION, videos=9), ACTION, NAMES)
  assert json.loads((tmp_path / 'report.json').read_text())['videos'] == results['videos'] == 9
  assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('classes', [1, 8, 40, 41, 400])
def test_confusion_matrices_of_any_size_are_readable(classes):
  matrix = np.diag(np.full(classes, 5))
  picture = imread(io.BytesIO(draw_confusion(matrix, [f'class {i}' for i in range(classes)], 'x')))
  assert 300 < min(picture.shape[:2]) <= max(picture.shape[:2]) < 1500
  blue = (picture[..., 2] - picture[..., 0]) > 0.2
  assert blue.any()


def test_classes_are_counted_and_sorted(rng, tmp_path):
  labels = np.array([0, 0, 0, 1, 3, 3])
  predicted = np.array([0, 1, 0, 1, 0, 2])  # of 'cow' there is no video
  task, names = Task(heads=('noun',), classes=(4,)), {'noun': ('cat', HOSTILE, 'cow', 'hen')}
  found = predict(rng, task, videos=6)
  found = dataclasses.replace(found, logit_sums=np.eye(4)[predicted], labels=labels[:, None])
  path, results = write(tmp_path, found, task, names)
  assert results['tasks']['noun']['class_top1'] == pytest.approx((2 / 3 + 1 + 0) / 3)
  assert json.loads((tmp_path / 'report.json').read_text())['classes'] == {
    'noun': [
      {'class': HOSTILE, 'videos': 1, 'top1': 1.0},
      {'class': 'cat', 'videos': 3, 'top1': pytest.approx(2 / 3)},
      {'class': 'hen', 'videos': 2, 'top1': 0.0},
      {'class': 'cow', 'videos': 0, 'top1': None},
    ]
  }
  text = Page(path.read_text()).text
  assert 'Every class of noun' in text
  assert text.index('cat366.7 %') < text.index('hen20.0 %') < text.index('cow0n/a')


@pytest.mark.parametrize('count', [0, 1, 40, 700])
def test_scores_of_any_number_of_classes_are_readable(rng, count):
  scores = sorted(rng.random(count), reverse=True)
  rows = [ClassScore(f'$class^{{ {k}', k, float(score)) for k, score in enumerate(scores)]
  picture = imread(io.BytesIO(draw_classes([*rows, ClassScore('none', 0, None)], 'top-1')))
  assert picture.shape[0] > 150
  assert picture.shape[1] < 1500


def test_most_confused_pairs_leave_out_the_diagonal():
  matrix = np.array([[9, 2, 0], [5, 9, 0], [0, 2, 9]])
  assert most_confused(matrix, 2) == [(1, 0, 5), (0, 1, 2)]
  assert most_confused(matrix, 9) == [(1, 0, 5), (0, 1, 2), (2, 1, 2)]
  assert most_confused(np.diag([1, 2]), 5) == []


def test_curves_need_something_to_draw():
  assert draw_curves([]) is None
  assert draw_curves([{'step': 1, 'loss': float('nan'), 'learning_rate': 0.1}]) is None
  both, loss = draw_curves(CURVES), draw_curves([{'step': 1, 'loss': 0.5}])
  assert imread(io.BytesIO(both)).shape[1] > imread(io.BytesIO(loss)).shape[1]


@pytest.mark.parametrize('name', ['top1', 'top1_verb', 'accuracy', 'mAP', 'validation_top1_verb'])
def test_every_accuracy_of_the_metrics_file_is_drawn(name):
  assert draw_curves([{'step': 1, name: 0.5}]) != draw_curves([{'step': 1, name: 0.1}])


@pytest.mark.parametrize('count, shown', [(1, 1), (3, 3), (8, 8), (32, 8)])
def test_a_strip_shows_first_and_last_frame(count, shown):
  frames = np.zeros((count, 48, 64, 3), np.uint8)
  frames[0], frames[-1, ..., 0] = 0, 200
  strip = imread(io.BytesIO(draw_strip(frames)), format='jpg')
  assert strip.shape == (48, shown * 64 + shown - 1, 3)
  assert strip[:, -32:, 0].min() > 180
  assert count == 1 or strip[:, :32].max() < 20


def test_mistakes_carry_plain_values(rng):
  for mistake in most_confident_mistakes(predict(rng, ACTION), ACTION, NAMES, 3):
    assert isinstance(mistake, Mistake)
    assert json.loads(json.dumps(vars(mistake))) == vars(mistake)


@pytest.fixture
def rng():
  return np.random.default_rng(0)
