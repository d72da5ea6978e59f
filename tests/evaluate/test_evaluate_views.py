# SPDX-License-Identifier: Apache-2.0
"""Streaming sums over views against plain loops: any order, any batch size, any number of hosts."""

import dataclasses

import numpy as np
import pytest

from vivit_jax.config.schema import Task
from vivit_jax.errors import EvaluationError
from vivit_jax.evaluate.accumulate import Predictions, answers, collect

ACTION = Task(heads=('verb', 'noun'), classes=(3, 6), joint='action')
VIDEOS, VIEWS = 11, 4


def views_of(rng, task=ACTION, videos=VIDEOS, views=VIEWS):
  """Returns rows (id, logits, label), one per view; the video of a row holds the row's number."""
  logits = rng.normal(scale=10, size=(videos * views, sum(task.classes))).astype(np.float32)
  if task.kind == 'multi_label':
    labels = (rng.random((videos, task.classes[0])) < 0.4).astype(np.float32)
  else:
    labels = np.stack([rng.integers(n, size=videos) for n in task.classes], 1).astype(np.int32)
  ids = np.repeat(np.arange(videos), views).astype(np.int32)
  return ids, logits, labels


def run(order, ids, logits, labels, *, size=5, task=ACTION, videos=VIDEOS, failures=(), **options):
  """Collects the rows in `order`, in batches of `size`, the last one padded."""
  batches = []
  for start in range(0, len(order), size):
    rows = np.asarray(order[start : start + size])
    padding = size - len(rows)
    video = np.full((size, 1, 2, 2, 3), 255, np.uint8)
    video[: len(rows)] = rows[:, None, None, None, None]
    batches.append(
      {
        'video': video,
        'label': np.concatenate([labels[ids[rows]], np.zeros((padding, labels.shape[1]), 'int32')]),
        'mask': np.arange(size) < len(rows),
        'id': np.concatenate([ids[rows], np.full(padding, -1, np.int32)]),
        'failures': list(failures),
      }
    )
    batches[-1]['label'] = batches[-1]['label'].astype(labels.dtype)

  def apply(video):
    numbers = video[:, 0, 0, 0, 0].astype(int)
    garbage = np.full(logits.shape[1], np.nan, np.float32)
    return np.stack([logits[i] if i < len(logits) else garbage for i in numbers])

  return collect(on_batch(apply), iter(batches), task, videos=videos, **options)


def on_batch(apply):
  return lambda batch: apply(batch['video'])


def same(a: Predictions, b: Predictions) -> bool:
  return all(
    np.array_equal(getattr(a, field.name), getattr(b, field.name))
    for field in dataclasses.fields(Predictions)
  )


def test_sums_counts_and_clip_hits_equal_plain_loops(rng):
  ids, logits, labels = views_of(rng)
  got = run(np.arange(len(ids)), ids, logits, labels)
  for video in range(VIDEOS):
    expected = sum(logits[i].astype(np.float64) for i in range(len(ids)) if ids[i] == video)
    np.testing.assert_allclose(got.logit_sums[video], expected, rtol=0, atol=1e-8)
  assert got.views.tolist() == [VIEWS] * VIDEOS
  np.testing.assert_array_equal(got.labels, labels)
  verbs = [int(logits[i, :3].argmax() == labels[ids[i], 0]) for i in range(len(ids))]
  nouns = [int(logits[i, 3:].argmax() == labels[ids[i], 1]) for i in range(len(ids))]
  both = [verb * noun for verb, noun in zip(verbs, nouns, strict=True)]
  assert got.clip_hits[:, 0].tolist() == [sum(verbs), sum(nouns), sum(both)]
  in_five = [int(labels[ids[i], 1] in np.argsort(-logits[i, 3:])[:5]) for i in range(len(ids))]
  assert got.clip_hits[0, 1] == len(ids)  # five of three verbs
  assert got.clip_hits[1, 1] == sum(in_five)


@pytest.mark.parametrize('size', [1, 3, 16, 44, 100])
def test_order_and_batch_size_change_no_bit(rng, size):
  ids, logits, labels = views_of(rng)
  logits[:4] *= np.float32(1e-6)
  straight = run(np.arange(len(ids)), ids, logits, labels)
  assert same(straight, run(rng.permutation(len(ids)), ids, logits, labels, size=size))


@pytest.mark.parametrize('size', [1, 3, 4, 16])
def test_a_stream_answers_each_video_once_its_views_are_done(rng, size):
  ids, logits, labels = views_of(rng)
  unreadable, taken = {2: 'damaged', 7: 'empty'}, []

  def batches():
    for start in range(0, len(ids), size):
      rows = np.arange(start, min(start + size, len(ids)))
      first = [i for i in ids[rows[rows % VIEWS == 0]].tolist() if i in unreadable]
      padding = size - len(rows)
      taken.append(rows[-1])
      yield {
        'video': np.append(rows, np.full(padding, -1)),
        'label': np.append(labels[ids[rows]], np.zeros((padding, 2), int), axis=0),
        'mask': np.append(~np.isin(ids[rows], list(unreadable)), np.zeros(padding, bool)),
        'id': np.append(ids[rows], np.full(padding, -1)),
        'failures': [('same name.mp4', unreadable[i]) for i in first],
      }

  def apply(rows):
    return np.where(rows[:, None] < 0, np.nan, logits[rows])

  whole = collect(on_batch(apply), batches(), ACTION, videos=VIDEOS)
  taken.clear()
  found = []
  for answer in answers(apply, batches(), VIEWS):
    assert taken[-1] < (len(found) + 1) * VIEWS + size  # no batch more than it needs
    found.append(answer)
  assert [answer.failure for answer in found] == [unreadable.get(i) for i in range(VIDEOS)]
  readable = [answer for answer in found if answer.failure is None]
  np.testing.assert_array_equal([answer.logits for answer in readable], whole.mean_logits())
  np.testing.assert_array_equal([answer.label for answer in readable], whole.labels[whole.seen])


@pytest.mark.parametrize('kind', ['single_label', 'multi_label'])
def test_hosts_merge_to_one_process_bit_for_bit(rng, kind):
  task = ACTION if kind == 'single_label' else Task(kind=kind, classes=(7,))
  ids, logits, labels = views_of(rng, task)
  order = rng.permutation(len(ids))
  gone = [('b.mp4', 'no video stream'), ('a.mp4', 'truncated')]
  one = run(order, ids, logits, labels, task=task, failures=gone)
  parts = [
    run(order[:17], ids, logits, labels, task=task, failures=gone[:1], size=4),
    run(order[17:30], ids, logits, labels, task=task, failures=gone[1:], size=4),
    run(order[30:], ids, logits, labels, task=task, failures=gone, size=4),
  ]
  assert same(one, parts[0].merge(*parts[1:]))
  assert same(one, parts[2].merge(parts[0]).merge(parts[1]))
  assert one.failures == (('a.mp4', 'truncated'), ('b.mp4', 'no video stream'))


def test_a_batch_of_padding_runs_the_model_and_changes_nothing(rng):
  ids, logits, labels = views_of(rng)
  calls = []
  padding = {
    'video': np.zeros((5, 1, 2, 2, 3), np.uint8),
    'label': np.zeros((5, 2), np.int32),
    'mask': np.zeros(5, bool),
    'id': np.full(5, -1, np.int32),
    'failures': [],
  }

  def apply(video):
    calls.append(len(video))
    return np.ones((5, 9), np.float32)

  got = collect(on_batch(apply), [padding], ACTION, videos=VIDEOS)
  assert calls == [5]
  assert not got.views.any()
  assert not got.logit_sums.any()
  whole = run(np.arange(len(ids)), ids, logits, labels)
  assert same(whole, whole.merge(got))


def test_unreadable_videos_are_left_out_and_told_once(rng):
  ids, logits, labels = views_of(rng)
  readable = np.flatnonzero(~np.isin(ids, [2, 7]))
  told = []
  got = run(
    readable, ids, logits, labels,
    failures=[('2.mp4', 'damaged'), ('7.mp4', 'empty')],
    on_failure=lambda path, reason: told.append((path, reason)),
    progress=True,
  )  # fmt: skip
  assert told == [('2.mp4', 'damaged'), ('7.mp4', 'empty')]
  assert got.seen.tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10]
  assert (got.labels[[2, 7]] == -1).all()


def test_videos_that_nobody_evaluated_are_no_unreadable_ones(rng):
  ids, logits, labels = views_of(rng)
  paths = [f'{k}.mp4' for k in range(VIDEOS)]
  mine = np.flatnonzero(ids % 2 == 0)
  whole, half = (run(order, ids, logits, labels) for order in (range(len(ids)), mine))
  whole.check_complete(paths, VIEWS)
  with pytest.raises(EvaluationError) as error:
    half.check_complete(paths, VIEWS)
  assert str(error.value).startswith(
    f'{VIDEOS // 2} of the {VIDEOS} videos do not have the {VIEWS} views of the protocol; the '
    'first is 1.mp4 with 0: '
  )
  others = tuple((path, 'no video') for path in paths[1::2])
  dataclasses.replace(half, failures=others).check_complete(paths, VIEWS)
  with pytest.raises(EvaluationError, match=r'first is 0\.mp4 with'):  # seen twice
    whole.merge(half).check_complete(paths, VIEWS)


def test_a_counted_row_without_a_video_is_refused(rng):
  ids, logits, labels = views_of(rng)
  with pytest.raises(ValueError, match='ids -1 to 10'):
    run(np.arange(len(ids)), np.where(ids == 0, -1, ids), logits, labels, size=44)


def test_non_finite_views_spoil_their_own_video_only(rng):
  ids, logits, labels = views_of(rng)
  logits[4, 0], logits[5, 0], logits[8, 1] = np.inf, -np.inf, np.nan
  got = run(np.arange(len(ids)), ids, logits, labels)
  assert np.flatnonzero(~np.isfinite(got.logit_sums).all(axis=1)).tolist() == [1, 2]


@pytest.fixture
def rng():
  return np.random.default_rng(0)
