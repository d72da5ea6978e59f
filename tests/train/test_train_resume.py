# SPDX-License-Identifier: Apache-2.0
"""A run that was killed or stopped anywhere ends with the bits of one that was not."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chex
import numpy as np
import pytest

from support.runs import (
  ROOT,
  command,
  environment,
  rows,
  saved_state,
  settings,
  start,
  tiny,
)
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.train.log import read_metrics
from vivit_jax.train.optimizer import learning_rate

STEPS, EVERY = 60, 3
RUN = {
  'train__steps': STEPS,
  'train__log_every': EVERY,
  'train__evaluate_every': 20,
  'train__ema_decay': 0.9,
  'mix__mixup': 0.3,
}


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """A whole run, decoded by threads, whose end the others must reach."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  done = command('train', *settings(**RUN), f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  return workdir


def test_the_averaged_weights_are_those_that_are_read(uninterrupted):
  state = saved_state(tiny(**RUN), uninterrupted)
  with Checkpoints(uninterrupted, read_only=True) as checkpoints:
    params, step, _ = checkpoints.read_params('last')
  assert step == STEPS
  chex.assert_trees_all_equal(params, state.ema_params)
  kernels = [tree['head']['kernel'] for tree in (state.params, state.ema_params)]
  assert not np.array_equal(*kernels)


def interrupted_run(
  workdir: Path, workers: int, rows: int, how: signal.Signals, *, group: bool = False
) -> tuple[int, str, str]:
  """Starts or continues the run and signals it once it has logged so many more rows.

  Returns:
    Exit code, standard output, standard error.
  """
  rows += len(read_metrics(workdir))
  process = start('train', *settings(**RUN, data__workers=workers), f'--workdir={workdir}')
  try:
    deadline = time.monotonic() + 300
    while process.poll() is None and len(read_metrics(workdir)) < rows:
      assert time.monotonic() < deadline
      time.sleep(0.005)
    time.sleep(random.uniform(0, 0.02))
    os.killpg(process.pid, how) if group else process.send_signal(how)
    out, err = process.communicate(timeout=300)
  finally:
    process.kill()
  return process.returncode, out, err


def assert_same_run(workdir: Path, other: Path) -> None:
  """Compares everything that two runs say and keep."""
  config = tiny(**RUN)
  one, two = saved_state(config, workdir), saved_state(config, other)
  assert int(one.step) == STEPS
  chex.assert_trees_all_equal(one, two)
  with (
    Checkpoints(workdir, read_only=True) as a,
    Checkpoints(other, read_only=True) as b,
  ):
    assert (a.steps, a.best_step, a.best_score()) == (b.steps, b.best_step, b.best_score())
  assert rows(workdir) == rows(other)
  logged = [row['step'] for row in rows(workdir) if 'loss' in row]
  assert logged == list(range(EVERY, STEPS + 1, EVERY))


def test_killed_and_stopped_at_random_moments(uninterrupted, tmp_path):
  stops = [
    (signal.SIGKILL, 0, -signal.SIGKILL),
    (signal.SIGINT, 2, 130),
    (signal.SIGKILL, 1, -signal.SIGKILL),
    (signal.SIGTERM, 0, 0),
  ]
  for how, workers, expected in stops:
    rows = random.randint(1, 3)
    code, out, err = interrupted_run(tmp_path, workers, rows, how)
    assert code == expected, (how, rows, err)
    if how != signal.SIGKILL:
      step = saved_steps(tmp_path)[-1]
      line = f'vivit: stopped by {how.name} at step {step}; the same command continues from there'
      assert out.splitlines()[-1] == line
      assert all(line.startswith('vivit: warning: ') for line in err.splitlines())
      assert int(saved_state(tiny(**RUN), tmp_path).step) == step < STEPS
  done = command('train', *settings(**RUN, data__workers=2), f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert_same_run(tmp_path, uninterrupted)


@contextlib.contextmanager
def running(redirection: str, workdir: Path, pipe: bool = False, **overrides: Any):
  """Yields a run started by a shell, which becomes it; gone at the end."""
  line = f'exec "$0" -m vivit_jax "$@" {redirection}'
  arguments = ('train', *settings(**RUN, **overrides), f'--workdir={workdir}')
  with subprocess.Popen(
    ['bash', '-c', line, sys.executable, *arguments],
    cwd=ROOT, env=environment(), text=True, start_new_session=True,
    stdout=subprocess.PIPE if pipe else None, stderr=subprocess.PIPE,
  ) as process:  # fmt: skip
    try:
      yield process
    finally:
      process.kill()


def said_of(workdir: Path, how: str) -> str:
  step = saved_steps(workdir)[-1]
  return f'vivit: stopped by {how} at step {step}; the same command continues from there'


@pytest.mark.faults
def test_a_hangup_a_warning_and_closed_output_lose_nothing(uninterrupted, tmp_path):
  # To the whole group, as a terminal and SLURM do: the decoders must not care.
  for how, workers, expected in ((signal.SIGHUP, 2, 129), (signal.SIGUSR1, 2, 0)):
    code, out, err = interrupted_run(tmp_path, workers, 1, how, group=True)
    assert code == expected, (how, err)
    opening, compiling, *_, last = out.splitlines()
    assert re.fullmatch(
      r'vivit: 64 videos of 8 classes, steps \d+ to 60 of 8 clips; factorised_encoder of 1 layers, '
      r'[\d,]+ parameters; 1 x cpu',
      opening,
    )
    assert compiling == 'vivit: compiling the training step'
    assert last == said_of(tmp_path, how.name)
  before = saved_steps(tmp_path)[-1]
  with running('>/dev/full', tmp_path) as process:
    _, err = process.communicate(timeout=300)
  assert process.returncode == 141, err
  assert before < saved_steps(tmp_path)[-1] < STEPS
  lines = [line for line in err.splitlines() if not line.startswith('vivit: warning: ')]
  assert lines == [
    'vivit: standard output cannot be written: No space left on device',
    said_of(tmp_path, 'SIGPIPE'),
  ]
  with running('', tmp_path, pipe=True) as process:  # | head -1
    assert process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=300)
  assert process.returncode in (0, 141), err
  with running('>&-', tmp_path) as process:
    _, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  assert_same_run(tmp_path, uninterrupted)


@pytest.mark.faults
@pytest.mark.parametrize('how', ['SIGHUP', 'SIGUSR1', 'pipe', 'pipe of both', 'full'])
def test_at_random_moments(uninterrupted, tmp_path, how):
  for _ in range(4):
    rows, workers = random.randint(1, 4), random.choice([0, 1, 2])
    print(f'{how}: {rows} rows, {workers} workers')
    if how.startswith('SIG'):
      kind = signal.Signals[how]
      code, _, err = interrupted_run(tmp_path, workers, rows, kind, group=random.random() < 0.5)
      assert code == (129 if how == 'SIGHUP' else 0), err
    else:
      both = '2>&1' if how.endswith('both') else ''
      redirection = '>/dev/full' if how == 'full' else both
      with running(redirection, tmp_path, how != 'full', data__workers=workers) as process:
        if how != 'full':
          for _ in range(rows):
            process.stdout.readline()
          time.sleep(random.uniform(0, 0.2))
          process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=300)
      assert process.returncode == 141 or saved_steps(tmp_path) == [STEPS], err
    assert 'Traceback' not in err
    print(f'  step {saved_steps(tmp_path)[-1]}')
  done = command('train', *settings(**RUN), f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert_same_run(tmp_path, uninterrupted)


def test_two_hangups_stop_once_and_nohup_ignores_them():
  program = (
    'import os, signal, sys\n'
    'from vivit_jax.train.stop import PreemptionHandler\n'
    'if sys.argv[1] == "nohup": signal.signal(signal.SIGHUP, signal.SIG_IGN)\n'
    'with PreemptionHandler() as stop:\n'
    '  for _ in range(2): os.kill(os.getpid(), signal.SIGHUP)\n'
    'print(stop.received)\n'
    'with PreemptionHandler(ends_process=True) as stop: pass\n'
    'os.kill(os.getpid(), signal.SIGTERM)\n'
    'print("after the work")\n'
  )
  for how, received in (('terminal', signal.SIGHUP), ('nohup', None)):
    done = command(how, program=program)
    assert (done.returncode, done.stdout) == (0, f'{received}\nafter the work\n'), done.stderr


def test_a_finished_run_only_evaluates_again(uninterrupted):
  before = (uninterrupted / 'metrics.jsonl').read_text()
  done = command('train', *settings(**RUN), f'--workdir={uninterrupted}')
  assert done.returncode == 0
  assert done.stdout.count('\n') == 1
  assert done.stdout.startswith('test: top1 ')
  assert (uninterrupted / 'metrics.jsonl').read_text() == before


def saved_steps(workdir: Path) -> list[int]:
  """Returns the steps with a whole state."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps


def test_learning_rate_continues_where_it_was(uninterrupted):
  # Of the schedule, at the step that a row reports.
  train = tiny(**RUN).train
  rate = learning_rate(train, STEPS)
  for row in read_metrics(uninterrupted):
    if 'loss' in row:
      assert row['learning_rate'] == pytest.approx(float(rate(int(row['step']) - 1)), rel=1e-6)
