# SPDX-License-Identifier: Apache-2.0
"""Real faults of a run on one host: stopped, killed, hung, diverged, changed."""

import contextlib
import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from support.runs import ROOT, assert_same_bits, command, rows, saved_state, settings, start, tiny
from support.streams import gone, worker_pids
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.cli.main import main
from vivit_jax.data.examples import TrainingExamples
from vivit_jax.data.splits import open_split
from vivit_jax.errors import TrainingError
from vivit_jax.train import evaluation
from vivit_jax.train.log import read_metrics
from vivit_jax.train.loop import train
from vivit_jax.train.stop import Stopped

pytestmark = pytest.mark.usefixtures('compiled_once')


def kept(workdir: Path) -> tuple:
  """Returns what a run keeps: steps, best step and score."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps, checkpoints.best_step, checkpoints.best_score()


def wait_for_rows(process, workdir: Path, count: int) -> None:
  """Waits until a process has logged so many."""
  deadline = time.monotonic() + 240
  while len(read_metrics(workdir)) < count:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.fixture
def signal_at(monkeypatch):
  """A function that has SIGTERM sent to this process within an evaluation.

  Its arguments: which evaluation, and which of its batches, from 0.
  """
  batches, wanted, seen = evaluation.evaluation_batches, [], []

  def stream(*args, **options):
    seen.append(None)
    for k, batch in enumerate(batches(*args, **options)):
      if (len(seen) - 1, k) == tuple(wanted):
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  def at(number, batch):
    wanted[:] = number, batch
    seen.clear()

  monkeypatch.setattr(evaluation, 'evaluation_batches', stream)
  return at


@pytest.mark.usefixtures('one_device')
def test_a_stop_within_evaluations_changes_nothing_in_the_end(tmp_path, signal_at, capsys):
  config = tiny(train__steps=8, train__evaluate_every=4, train__checkpoint_every=100)
  whole, parts = tmp_path / 'whole', tmp_path / 'lr[0.1]'  # a pattern to Orbax
  results = train(config, whole)
  assert kept(whole)[0] == [8]

  signal_at(0, 1)  # in the first validation, of two batches
  with pytest.raises(Stopped) as stopped:
    train(config, parts)
  assert str(stopped.value) == 'stopped by SIGTERM at step 4; the same command continues from there'
  assert stopped.value.by == signal.SIGTERM
  assert [row['step'] for row in rows(parts) if 'validation_top1' in row] == []
  assert int(saved_state(config, parts).step) == 4

  signal_at(1, 1)  # the owed one is done; in the last one
  with pytest.raises(Stopped, match='at step 8; the same command continues'):
    train(config, parts)
  assert [row['step'] for row in rows(parts) if 'validation_top1' in row] == [4]

  signal_at(1, 3)  # in the test that follows
  with pytest.raises(Stopped, match='SIGTERM in the final evaluation; training is complete'):
    train(config, parts)
  assert not (parts / 'report.json').exists()
  assert rows(parts) == rows(whole)

  signal_at(9, 9)
  capsys.readouterr()
  assert train(config, parts) == results
  assert capsys.readouterr().out.count('\n') == 1  # it evaluates alone
  assert rows(parts) == rows(whole)
  assert kept(parts)[1:] == kept(whole)[1:]
  assert_same_bits(saved_state(config, parts), saved_state(config, whole))
  reports = [json.loads((folder / 'report.json').read_text()) for folder in (parts, whole)]
  assert reports[0] == reports[1]


@pytest.mark.faults
@pytest.mark.usefixtures('one_device')
def test_a_run_that_diverges_ends_with_its_steps_and_videos(tmp_path):
  config = tiny(
    train__learning_rate=1e30, train__optimizer='sgd', train__grad_clip_norm=0.0,
    train__checkpoint_every=1, train__log_every=2, faults__max_consecutive_nonfinite=5,
  )  # fmt: skip
  with pytest.raises(TrainingError) as error:
    train(config, tmp_path)
  message = str(error.value)
  assert '\n' not in message
  listed = list(csv.DictReader((tmp_path / 'not_finite.csv').read_text().splitlines()))
  steps = sorted({int(row['step']) for row in listed})
  assert len(steps) in (5, 6)  # a step is looked at when the next one has begun
  assert steps == list(range(steps[0], steps[-1] + 1))
  assert message.startswith(f'loss or gradient of steps {steps[0]} to {steps[-1]} are not finite ')
  paths = [row['path'] for row in listed if int(row['step']) == steps[-1]]
  data = open_split(config, 'train')
  examples = TrainingExamples(data, config)
  wanted = [examples.attempt(8 * (steps[-1] - 1) + k, []).video.path for k in range(8)]
  assert paths == wanted
  assert all(path in message for path in paths[:3])
  saved = kept_steps(tmp_path)
  assert f'the last checkpoint is of step {saved[-1]}' in message
  assert saved[-1] < steps[0]  # none while updates are skipped
  for leaf in jax.tree.leaves(saved_state(config, tmp_path)):
    assert np.isfinite(leaf).all()
  assert sum(row['skipped_updates'] for row in read_metrics(tmp_path)) >= 4


def kept_steps(workdir: Path) -> list[int]:
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps


@pytest.fixture
def own(tmp_path):
  """The tiny videos as a user's data."""
  root = tmp_path / 'data'
  shutil.copytree(Path(open_split(tiny(), 'train').videos[0].path).parents[1], root)
  return root


def assert_hung(process, seconds: float, what: str) -> float:
  """Waits for the watchdog's end; returns the seconds it took from the last row of the log."""
  out, err = process.communicate(timeout=240)
  took = time.time()
  assert process.returncode == 1, (out, err)
  lines = err.splitlines()
  assert lines[-1].startswith(f'vivit: error: {what} did not come within {seconds:g} s: the stacks')
  assert '--config.faults.hang_timeout_seconds=' in lines[-1]
  assert sum('(most recent call first)' in line for line in lines) >= 3  # of several threads
  return took


HANGING_VIDEO = """
import dataclasses
from support.bad_contents import Bad
from vivit_jax.cli import main
from vivit_jax.data.bench import Files
from vivit_jax.data.examples import TrainingExamples
from vivit_jax.train import loop
open_split = loop.open_common_split

def hanging(config, split):
  data = open_split(config, split)
  if split != 'train':
    return data
  index = TrainingExamples(data, config).attempt(5 * config.train.batch_size, []).index
  files = Files(tuple(video.path for video in data.videos))
  return dataclasses.replace(data, contents=Bad(files, hang=(index,)))

loop.open_common_split = hanging
main.entry()
"""


@pytest.mark.faults
@pytest.mark.parametrize('workers', [0, 2])
def test_a_video_that_hangs_ends_the_run_with_all_stacks(tmp_path, workers):
  arguments = settings(
    data__workers=workers,
    data__decode_timeout_seconds=600.0,
    faults__hang_timeout_seconds=6,
    train__log_every=1,
  )
  process = start(
    'train',
    *arguments,
    f'--workdir={tmp_path}',
    program=HANGING_VIDEO,
    PYTHONPATH=f'{ROOT}:{ROOT / "tests"}',
  )
  with ended(process):
    wait_for_rows(process, tmp_path, 5)
    began = time.time()
    children = worker_pids(process.pid)
    assert len(children) == workers
    took = assert_hung(process, 6, 'step 6') - began
  assert gone(children)
  print(f'workers={workers}: ended {took:.1f} s after the last row')
  assert took < 30


HANGING_STEP = """
import time, jax, jax.numpy as jnp
from vivit_jax.cli import main
from vivit_jax.train import loop
compile_step, count = loop.compile_step, 0

def hanging(*arguments):
  step = compile_step(*arguments)
  @jax.jit
  def never():
    return jax.pure_callback(lambda: time.sleep(3600), jax.ShapeDtypeStruct((), jnp.float32))
  def call(state, batch):
    global count
    count += 1
    state, metrics = step(state, batch)
    return state, {**metrics, 'skipped_updates': never()} if count == 3 else metrics
  return call

loop.compile_step = hanging
main.entry()
"""


@contextlib.contextmanager
def ended(process):
  """Leaves no process behind."""
  with process:  # closes its pipes
    try:
      yield
    finally:
      process.kill()


@pytest.mark.faults
def test_a_step_that_hangs_on_the_device_ends_the_run(tmp_path):
  arguments = settings(faults__hang_timeout_seconds=6, train__log_every=1)
  process = start('train', *arguments, f'--workdir={tmp_path}', program=HANGING_STEP)
  with ended(process):
    wait_for_rows(process, tmp_path, 2)
    began = time.time()
    took = assert_hung(process, 6, 'step 3') - began
  print(f'ended {took:.1f} s after the last row')
  assert took < 30


@pytest.mark.faults
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT])
def test_the_command_answers_a_signal_within_evaluations(tmp_path, how):
  arguments = ('train', *settings(), f'--workdir={tmp_path}')
  code = 0 if how == signal.SIGTERM else 130
  for rows_before, said in (
    (4, 'at step 12; the same command continues from there'),
    (10, 'in the final evaluation; training is complete, and the same command evaluates it'),
  ):
    process = start(*arguments)
    with ended(process):
      wait_for_rows(process, tmp_path, rows_before)
      began = time.time()
      process.send_signal(how)
      out, err = process.communicate(timeout=120)
      print(f'{how.name}, {rows_before} rows: ended after {time.time() - began:.1f} s')
    assert process.returncode == code, err
    assert out.splitlines()[-1] == f'vivit: stopped by {how.name} {said}'
  done = command(*arguments)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('test: top1 ')
  assert [row['step'] for row in rows(tmp_path) if 'loss' not in row] == [12, 24]


@pytest.mark.faults
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_ends_takes_its_decoders_along(tmp_path, how):
  before = set(os.listdir('/dev/shm'))
  arguments = settings(data__workers=2, train__steps=10_000, train__evaluate_every=10_000)
  process = start('train', *arguments, f'--workdir={tmp_path}')
  with ended(process):
    wait_for_rows(process, tmp_path, 2)
    children = worker_pids(process.pid)
    assert len(children) == 2
    process.send_signal(how)
    process.communicate(timeout=120)
    ended_at = time.time()
    assert gone(children)
    took = time.time() - ended_at
  print(f'{how.name}: decoders gone {took:.1f} s after their trainer')
  assert took < 5
  assert set(os.listdir('/dev/shm')) <= before
  assert process.returncode == (0 if how == signal.SIGTERM else -signal.SIGKILL)


@pytest.mark.faults
def test_a_second_run_names_the_first_and_a_killed_one_is_free(tmp_path):
  arguments = ('train', *settings(train__steps=10_000), f'--workdir={tmp_path}')
  process = start(*arguments)
  with ended(process):
    wait_for_rows(process, tmp_path, 2)
    began = time.time()
    second = command(*arguments)
    print(f'refused after {time.time() - began:.1f} s')
    assert second.returncode == 2
    assert f'(process {process.pid} of ' in second.stderr
    assert second.stderr.count('\n') == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    third = start(*arguments)
    with ended(third):
      wait_for_rows(third, tmp_path, len(read_metrics(tmp_path)) + 1)


@pytest.mark.faults
@pytest.mark.usefixtures('one_device')
def test_a_changed_run_is_refused_until_changes_are_allowed(own, tmp_path, capsys):
  workdir = tmp_path / 'run'
  base = {'data__source': 'manifests', 'data__root': own, 'train__evaluate_every': 100}

  def run(*flags, **overrides):
    """Returns exit code and what it said on standard error."""
    capsys.readouterr()
    config = str(ROOT / 'configs/moving_digits.py')
    code = main(['train', *settings(config, **base, **overrides), f'--workdir={workdir}', *flags])
    return code, capsys.readouterr().err.splitlines()

  assert run(train__steps=4)[0] == 0
  table = (own / 'train.csv').read_text().splitlines()
  (own / 'train.csv').write_text('\n'.join(table[:-8]) + '\n')
  for overrides, said in (
    ({}, 'the training data was '),
    ({'train__batch_size': 4}, 'config.train.batch_size was 8 and is 4'),
    ({'seed': 7}, 'config.seed was 0 and is 7'),
    ({'model__drop_path': 0.0}, 'config.model.drop_path was 0.2 and is 0.0'),
  ):
    code, (line,) = run(train__steps=4, **overrides)
    assert code == 2
    assert said in line
    assert '--allow-changes' in line
  other = {'train__batch_size': 4, 'seed': 7, 'model__drop_path': 0.0, 'train__steps': 8}
  # What does not fit the checkpoint cannot be allowed, and spoils nothing.
  before = (workdir / 'config.json').read_bytes()
  code, lines = run('--allow-changes', **other, model__width=32)
  assert code == 2
  assert 'but this model needs' in lines[-1]
  assert (workdir / 'config.json').read_bytes() == before
  code, lines = run('--allow-changes', **other)
  assert code == 0
  said = [line.partition('changed in this run: ')[2] for line in lines]
  (entry,) = json.loads((workdir / 'config.json').read_text())['changes']
  assert entry == {'after_step': 4, 'changes': [line for line in said if line]}
  assert len(entry['changes']) == 5
  assert [row['step'] for row in rows(workdir) if 'loss' in row] == [3, 4, 6, 8]
  assert run(**other)[0] == 0  # which is what the run is now
