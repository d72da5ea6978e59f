# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run: one row per step even after kills, readable by standard tools."""

import json
import math
import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vivit_jax.errors import CheckpointError
from vivit_jax.evaluate.plots import draw_curves
from vivit_jax.train.goodput import ACTIVITIES, Goodput
from vivit_jax.train.log import RunLog, read_metrics


def test_rows_and_lines_say_the_same(tmp_path, capsys):
  with RunLog(tmp_path, 0, 40, 8, Goodput()) as log:
    log.train(20, {'loss': 2.0, 'top1': 0.25, 'learning_rate': 0.1})
    log.validation(20, {'top1': 0.5, 'top1_verb': 0.75})
  train, validation = read_metrics(tmp_path)
  rate = train.pop('clips_per_second')
  assert rate > 0
  assert train.pop('data_wait') == 0
  times = {name: train.pop(name) for name in list(train) if name.startswith('seconds_')}
  assert set(times) == {f'seconds_{name}' for name in ACTIVITIES}
  assert train == {'step': 20, 'loss': 2.0, 'top1': 0.25, 'learning_rate': 0.1}
  assert validation == {'step': 20, 'validation_top1': 0.5, 'validation_top1_verb': 0.75}
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith('step 20/40  loss 2  top1 0.25  learning_rate 0.1  ')
  assert ' clips/s  data_wait 0%  ETA ' in lines[0]
  assert lines[1] == 'step 20/40  validation: top1 0.5  top1_verb 0.75'
  assert list((tmp_path / 'tensorboard').glob('events.out.tfevents.*'))


def test_skipped_updates_are_said_where_there_are_any(tmp_path, capsys):
  with RunLog(tmp_path, 18, 20, 8, Goodput()) as log:
    log.train(19, {'loss': 1.0, 'skipped_updates': 0.0})
    log.train(20, {'loss': 1.0, 'skipped_updates': 2.0})
  assert [row['skipped_updates'] for row in read_metrics(tmp_path)] == [0.0, 2.0]
  first, second = capsys.readouterr().out.splitlines()
  assert 'skipped' not in first
  assert second.startswith('step 20/20  loss 1  skipped_updates 2  ')


def test_rows_after_the_checkpoint_repeat_and_cut_ones_go(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
  assert read_metrics(tmp_path) == [{'step': 1}, {'step': 2}, {'step': 3}]
  with RunLog(tmp_path, 2, 9, 8, Goodput()) as log:
    log.validation(3, {'top1': 0.5})
  assert read_metrics(tmp_path) == [{'step': 1}, {'step': 2}, {'step': 3, 'validation_top1': 0.5}]
  for line in (tmp_path / 'metrics.jsonl').read_text().splitlines():
    json.loads(line)


@pytest.mark.parametrize(
  ('waits', 'computing', 'hints'),
  [
    ((1, 1.5, 5), 0, 1),
    ((5, 0, 1), 0, 0),  # the first window, when decoders start
    ((0, 5, 5), math.inf, 0),  # the devices had something to do
    ((0, 5, 5), 4.5, 0),  # for the larger part of the wait
    ((0, 5, 5), 3.5, 1),
  ],
)
def test_waiting_for_data_is_measured_and_a_hint_says_what_to_do(
  tmp_path, capsys, monkeypatch, waits, computing, hints
):
  now = [0.0]
  monkeypatch.setattr('vivit_jax.train.goodput.time.monotonic', lambda: now[0])

  def batches():
    for wait in waits:
      now[0] += wait
      yield 0

  with RunLog(tmp_path, 0, 3, 8, Goodput()) as log:
    # A step lasts 10 s, and the devices compute for so long after the batch was asked for.
    idle_since = lambda: 10.0 * (now[0] // 10) + computing  # noqa: E731
    for step, _ in enumerate(log.waiting(batches(), idle_since), 1):
      now[0] += 10 - waits[step - 1]
      log.train(step, {'loss': 1.0})
  shares = [row['data_wait'] for row in read_metrics(tmp_path)]
  assert shares == pytest.approx([max(0, wait - computing) / 10 for wait in waits])
  printed = capsys.readouterr()
  assert 'clips/s  data_wait ' in printed.out
  lines = [line for line in printed.err.splitlines() if line.startswith('vivit: warning: ')]
  assert len(lines) == hints
  for line in lines:
    assert '--config.data.workers=' in line
    assert '`vivit data build`' in line


@pytest.mark.parametrize(
  'line', [b'5', b'[]', b'{}', b'{"step": "1"}', b'{"step": 1, "loss": "x"}', b'\xff\xfe', b'',
           b'[' * 100_000, b'{"step": 1, "loss": []}', b'{"step": 1'],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(tmp_path, line):
  (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
  with pytest.raises(CheckpointError) as error:
    read_metrics(tmp_path)
  message = f'{tmp_path}/metrics.jsonl:2 is not a row of numbers: delete the line'
  assert str(error.value) == message


def test_a_pipe_instead_of_the_metrics_file_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'metrics.jsonl')
  with pytest.raises(CheckpointError, match=r'metrics\.jsonl is not a regular file'):
    read_metrics(tmp_path)


def test_no_file_is_no_rows(tmp_path):
  assert read_metrics(tmp_path) == []


def test_what_is_not_finite_is_null_on_disk_and_nan_when_read(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": NaN}\n')  # of an earlier version
  with RunLog(tmp_path, 1, 9, 8, Goodput()) as log:
    log.validation(2, {'top1': math.nan, 'top5': math.inf, 'mAP': 0.5})
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[0]) == {'step': 1, 'loss': None}
  assert lines[1].endswith(
    '"validation_top1": null, "validation_top5": null, "validation_mAP": 0.5}'
  )
  rows = read_metrics(tmp_path)
  assert math.isnan(rows[0]['loss'])
  assert math.isnan(rows[1]['validation_top1'])
  picture = draw_curves(rows)
  assert picture is not None
  assert picture.startswith(b'\x89PNG')
  assert draw_curves(rows[:1]) is None


def test_tensorboard_reads_the_same_numbers(tmp_path):
  for start in (0, 2):  # a resumed run hides what it does again
    with RunLog(tmp_path / str(start), start, 9, 8, Goodput()) as log:
      log.validation(3, {'top1': 0.5})
    (file,) = (tmp_path / str(start) / 'tensorboard').glob('events.out.tfevents.*')
    version, restart, top1 = events(file.read_bytes())
    assert version.file_version == 'brain.Event:2'
    assert (restart.step, restart.session_log.status) == (start + 1, SessionLog.START)
    value = top1.summary.value[0]
    assert (top1.step, value.tag, value.simple_value) == (3, 'validation/top1', 0.5)


def events(data: bytes) -> list[Event]:
  """Returns the events of a file: length, checksum, content and checksum each."""
  found = []
  while data:
    (length,) = struct.unpack('<Q', data[:8])
    found.append(Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return found
