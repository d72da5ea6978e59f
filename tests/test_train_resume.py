# SPDX-License-Identifier: Apache-2.0
"""A run that was killed or stopped anywhere ends with the bits of one that was not."""

import itertools
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_train_loop import (
  TINY,
  assert_same_bits,
  cache,  # noqa: F401
  command,
  saved_state,
  settings,
  start,
  tiny,
)

from vivit_jax.checkpoint import Checkpoints
from vivit_jax.data.dataset import open_split
from vivit_jax.data.pipeline import train_batches
from vivit_jax.model.vivit import build
from vivit_jax.sharding import make_mesh, put_batch
from vivit_jax.train.log import read_metrics
from vivit_jax.train.optimizer import learning_rate, make_optimizer
from vivit_jax.train.state import init_state
from vivit_jax.train.step import compile_step

STEPS = TINY['train.steps']


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """A whole run, decoded by threads, whose end the others must reach."""
  workdir = tmp_path_factory.mktemp('uninterrupted')
  done = command('train', *settings(), f'--workdir={workdir}')
  assert done.returncode == 0, done.stderr
  return workdir


def interrupted_run(workdir: Path, workers: int, moment: float, how: signal.Signals):
  """Starts or continues the run; once a first step is logged, waits `moment` and signals it.

  Returns:
    Exit code, standard output, standard error.
  """
  rows = len(read_metrics(workdir))
  arguments = settings(data__workers=workers)
  process = start('train', *arguments, f'--workdir={workdir}')
  deadline = time.monotonic() + 60
  while process.poll() is None and len(read_metrics(workdir)) <= rows:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  time.sleep(moment)
  process.send_signal(how)
  try:
    out, err = process.communicate(timeout=60)
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  return process.returncode, out, err


def assert_same_run(workdir: Path, other: Path) -> None:
  """Compares everything that two runs say and keep."""
  config = tiny()
  one, two = saved_state(config, workdir), saved_state(config, other)
  assert int(one.step) == STEPS
  assert_same_bits(one, two)
  with (
    Checkpoints(workdir, read_only=True) as a,
    Checkpoints(other, read_only=True) as b,
  ):
    assert (a.steps, a.best_step, a.best_score()) == (b.steps, b.best_step, b.best_score())
  names = ['step', 'validation_top1', 'validation_top5']
  evaluations = [
    [[row.get(name) for name in names] for row in read_metrics(folder) if names[1] in row]
    for folder in (workdir, other)
  ]
  assert evaluations[0] == evaluations[1]
  logged = [row['step'] for row in read_metrics(workdir) if 'loss' in row]
  assert logged == list(range(3, STEPS + 1, 3))
  # The last window began after the last stop, or has another mean.
  assert 'clips_per_second' in read_metrics(workdir)[-2]


def test_killed_at_random_moments(uninterrupted, tmp_path):
  rng = np.random.default_rng()  # another moment each time; the message below names them
  moments = rng.uniform(0, 0.4, 3)
  for moment, workers in zip(moments, (0, 2, 1), strict=True):
    code, _, _ = interrupted_run(tmp_path, workers, moment, signal.SIGKILL)
    if code == 0:
      break  # it was faster
    assert code == -signal.SIGKILL
  done = command('train', *settings(), f'--workdir={tmp_path}')
  assert done.returncode == 0, (moments, done.stderr)
  assert_same_run(tmp_path, uninterrupted)


def test_asked_to_stop_twice(uninterrupted, tmp_path):
  code, out, err = interrupted_run(tmp_path, 0, 0.05, signal.SIGINT)
  step = max(saved_steps(tmp_path))
  line = f'vivit: stopped by SIGINT at step {step}; the same command continues from there'
  assert code == 130, err
  assert out.splitlines()[-1] == line
  assert err == ''
  assert 3 <= step < STEPS
  assert int(saved_state(tiny(), tmp_path).step) == step

  code, out, err = interrupted_run(tmp_path, 1, 0.0, signal.SIGTERM)
  assert code == 0, err
  assert out.splitlines()[-1].startswith('vivit: stopped by SIGTERM at step ')
  assert max(saved_steps(tmp_path)) > step

  done = command('train', *settings(data__workers=2), f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert_same_run(tmp_path, uninterrupted)


def test_a_finished_run_only_evaluates_again(uninterrupted, tmp_path):
  before = (uninterrupted / 'metrics.jsonl').read_text()
  done = command('train', *settings(), f'--workdir={uninterrupted}')
  assert done.returncode == 0
  assert done.stdout.count('\n') == 1
  assert done.stdout.startswith('test: top1 ')
  assert (uninterrupted / 'metrics.jsonl').read_text() == before


def saved_steps(workdir: Path) -> list[int]:
  """Returns the steps with a whole state."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps


def test_states_saved_while_later_steps_reuse_their_memory(tmp_path):
  # The step donates its input: its buffers are written again while the save is under way.
  config = tiny(model__width=128, model__mlp_dim=512, model__layers=2)
  mesh = make_mesh(None, jax.devices()[:1])
  steps, every, kept = 12, 3, {}
  optimizer = make_optimizer(config.train, steps)
  step = compile_step(config, build(config), optimizer, mesh)

  def run(visit):
    state = jax.device_put(init_state(config, build(config), optimizer), mesh.devices.item())
    rows = train_batches(
      open_split(config, 'train'), config, start_step=0, stop_step=steps, rows=(0, 8)
    )
    for number, batch in zip(itertools.count(1), rows, strict=False):
      state, _ = step(state, put_batch(mesh, {k: batch[k] for k in ('video', 'label')}))
      if number % every == 0:
        visit(number, state)

  run(lambda number, state: kept.update({number: jax.tree.map(np.array, jax.device_get(state))}))
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    run(lambda number, state: checkpoints.save(number, state, {}))
  for number, state in kept.items():
    assert_same_bits(saved_state(config, tmp_path, number), state)


def test_learning_rate_continues_where_it_was(uninterrupted):
  # Of the schedule, at the step that a row reports.
  train = tiny().train
  rate = learning_rate(train, STEPS)
  for row in read_metrics(uninterrupted):
    if 'loss' in row:
      assert row['learning_rate'] == pytest.approx(float(rate(int(row['step']) - 1)), rel=1e-6)
