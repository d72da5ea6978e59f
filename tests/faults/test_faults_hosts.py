# SPDX-License-Identifier: Apache-2.0
"""One of two real processes is stopped, killed, hangs, fails or differs: what the other does."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import chex
import pytest

from support.hosts import FOUR_DEVICES, SCRIPT, free_port
from support.runs import ROOT, environment, saved_state, settings, tiny
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.train.log import read_metrics

HEARTBEAT = 10  # seconds
MARGIN = 15  # for heartbeats are looked at now and then, on a machine that has other things to do
RUN = {'train__ema_decay': 0.9, 'faults__heartbeat_timeout_seconds': HEARTBEAT}
FAILING = """
import sys
from vivit_jax.cli.main import main
from vivit_jax.train.log import RunLog

def advance(self, left=[5]):
  left[0] -= 1
  if not left[0]:
    raise ZeroDivisionError('in the fifth step')

RunLog.advance = advance
sys.exit(main(sys.argv[1:]))
"""


def by_options(number, port):
  """Returns arguments and environment of one of two processes."""
  return [f'--coordinator=127.0.0.1:{port}', '--processes=2', f'--process={number}'], {}


def by_slurm(number, port):
  """Returns the same as srun gives them; JAX makes a port of the number of the job."""
  ids = {'PROCID': number, 'LOCALID': number, 'JOB_ID': port % 2**12}
  counts = {'NTASKS': 2, 'STEP_NUM_TASKS': 2, 'STEP_NODELIST': '127.0.0.1'}
  return [], {f'SLURM_{name}': str(value) for name, value in {**ids, **counts}.items()}


class Pair:
  """Two processes of one run; a context manager that leaves none behind.

  Attributes:
    out: what each has written to standard output, once `wait` has returned.
    err: to standard error.
  """

  def __init__(self, *commands, join=by_options):
    """Starts a command line per process, of which each learns by `join` who the others are."""
    port = free_port()
    self.processes = []
    for number, command in enumerate(commands):
      arguments, variables = join(number, port)
      self.processes.append(
        subprocess.Popen(
          [sys.executable, *command, *arguments],
          cwd=ROOT,
          env=environment(XLA_FLAGS=FOUR_DEVICES, **variables),
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
          start_new_session=True,
        )
      )
    self.out, self.err = ['', ''], ['', '']

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.processes:
      process.kill()
      process.communicate()

  def wait(self, seconds=300.0, of=(0, 1)):
    """Waits for both, or one of them, and returns their exit codes; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    for number in of:
      left = max(0.0, deadline - time.monotonic())
      self.out[number], self.err[number] = self.processes[number].communicate(timeout=left)
    return tuple(self.processes[number].returncode for number in of)

  def wait_for_rows(self, workdir, rows):
    """Returns once the run has logged so many rows."""
    deadline = time.monotonic() + 200
    while len(read_metrics(workdir)) < rows:
      assert time.monotonic() < deadline
      assert all(process.poll() is None for process in self.processes), self.wait(5)
      time.sleep(0.02)


def vivit(workdir, **overrides):
  """Returns the arguments of a tiny training run."""
  return ('-m', 'vivit_jax', 'train', *settings(**{**RUN, **overrides}), f'--workdir={workdir}')


def last_step(workdir):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.steps[-1]


@pytest.mark.faults
def test_a_signal_to_one_host_stops_all_and_the_run_resumes(tmp_path):
  straight, stopped = tmp_path / 'straight', tmp_path / 'stopped[0-1]'  # a pattern to Orbax
  done = subprocess.run(
    [SCRIPT, sys.executable, *vivit(straight)],
    cwd=ROOT,
    env=environment(XLA_FLAGS=FOUR_DEVICES, PORT=str(free_port())),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for receiver, how, code in ((1, signal.SIGTERM, 0), (0, signal.SIGINT, 130)):
    before = len(read_metrics(stopped))
    with Pair(vivit(stopped), vivit(stopped)) as pair:
      pair.wait_for_rows(stopped, before + 1)
      pair.processes[receiver].send_signal(how)
      began = time.monotonic()
      codes = pair.wait(60)
      print(f'{how.name} to process {receiver}: {time.monotonic() - began:.1f} s')
      expected = [0, 0]
      expected[receiver] = code
      assert codes == tuple(expected), pair.err
      step = last_step(stopped)
      assert 0 < step < 24
      line = f'vivit: stopped by {how.name} at step {step}; the same command continues from there'
      assert line in pair.out[0]
      assert pair.err[1] == ''
  with Pair(vivit(stopped), vivit(stopped)) as pair:
    assert pair.wait() == (0, 0), pair.err
  config = tiny(**RUN)
  assert int(saved_state(config, stopped).step) == 24
  chex.assert_trees_all_equal(saved_state(config, stopped), saved_state(config, straight))
  reports = [json.loads((folder / 'report.json').read_text()) for folder in (straight, stopped)]
  assert reports[0] == reports[1]


@pytest.mark.faults
def test_hosts_stop_early_at_the_same_step(tmp_path):
  # Nothing is learnt, so the first evaluation stays the best; only the first process has a log.
  still = vivit(
    tmp_path / 'run',
    train__learning_rate=0.0,
    train__evaluate_every=3,
    train__patience=2,
    data__balance='verb',
  )
  with Pair(still, still) as pair:
    assert pair.wait() == (0, 0), pair.err
  assert last_step(tmp_path / 'run') == 9
  assert json.loads((tmp_path / 'run' / 'report.json').read_text())['stopped_early_at'] == 9
  with Pair(still, still) as pair:  # which have nothing left to train
    assert pair.wait() == (0, 0), pair.err
  assert last_step(tmp_path / 'run') == 9


@pytest.mark.faults
@pytest.mark.parametrize('lost', [0, 1])
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_other_in_time(tmp_path, lost, how):
  with Pair(vivit(tmp_path, train__steps=500), vivit(tmp_path, train__steps=500)) as pair:
    pair.wait_for_rows(tmp_path, 2)
    pair.processes[lost].send_signal(how)
    began = time.monotonic()
    (code,) = pair.wait(HEARTBEAT + MARGIN, of=(1 - lost,))
    print(f'{how.name} to process {lost}: {time.monotonic() - began:.1f} s')
    assert code != 0
    if lost:
      assert re.search(r'tasks are unhealthy \(stopped sending heartbeats\):\s+1\s', pair.err[0])
    else:
      assert 'JAX distributed service' in pair.err[1]


@pytest.mark.faults
@pytest.mark.parametrize('failing', [0, 1])
def test_an_exception_in_one_process_ends_all_and_says_where(tmp_path, failing):
  commands = [vivit(tmp_path), vivit(tmp_path)]
  commands[failing] = ('-c', FAILING, *commands[failing][2:])
  with Pair(*commands) as pair:
    pair.wait(300, of=(failing,))
    began = time.monotonic()
    pair.wait(30, of=(1 - failing,))
    print(f'exception in process {failing}: the other {time.monotonic() - began:.1f} s later')
    assert [process.returncode for process in pair.processes] == [1, 1]
    own, other = pair.err[failing], pair.err[1 - failing]
    prefix = f'process {failing}: ' * (failing > 0)
    assert own.startswith(f'{prefix}Traceback (most recent call last):\n')
    assert own.endswith(f'{prefix}ZeroDivisionError: in the fifth step\n')
    prefix = 'process 1: ' * (failing == 0)
    why = 'ZeroDivisionError: in the fifth step'
    assert other == f'{prefix}vivit: process {failing} failed: {why}\n'


@pytest.mark.faults
@pytest.mark.parametrize('counts', [(2, 3), (3, 2)])
def test_other_numbers_of_processes_are_refused_on_both_sides(tmp_path, counts):
  def join(number, port):
    own = f'--processes={counts[number]}'
    return [f'--coordinator=127.0.0.1:{port}', own, f'--process={number}'], {}

  for command in (vivit(tmp_path), ('-m', 'vivit_jax', 'evaluate', f'--workdir={tmp_path}')):
    began = time.monotonic()
    with Pair(command, command, join=join) as pair:
      assert pair.wait(60) == (2, 2), pair.err
    print(f'{command[2]} {counts}: {time.monotonic() - began:.1f} s')
    said = f'vivit: error: the number of processes is {counts[0]} in process 0 and {counts[1]} in '
    assert all(err.startswith(said) and err.count('\n') == 1 for err in pair.err), pair.err
  assert not list(tmp_path.iterdir())


def test_other_settings_or_code_are_refused_before_step_one(tmp_path):
  shutil.copytree(ROOT / 'vivit_jax', tmp_path / 'vivit_jax')
  with (tmp_path / 'vivit_jax' / 'sharding.py').open('a') as file:
    file.write('# a change\n')
  workdir = tmp_path / 'run'
  other = (
    f'import sys; sys.path[0] = {str(tmp_path)!r}; from vivit_jax.cli.main import main; main()'
  )
  commands = (
    vivit(workdir),
    ('-c', other.replace('main()', 'sys.exit(main())'), *vivit(workdir, train__batch_size=16)[2:]),
  )
  with Pair(*commands, join=by_slurm) as pair:
    assert pair.wait(60) == (2, 2), pair.err
  line = pair.err[0]
  assert line.count('\n') == 1
  assert re.fullmatch(
    r"vivit: error: the code of vivit_jax is '\w{16}' in process 0 and '\w{16}' in process 1; "
    r'config\.train\.batch_size is 8 in process 0 and 16 in process 1: start the same command, '
    r'code and data on every host\n',
    line,
  )
  assert pair.err[1] == f'process 1: {line}'
  assert not workdir.exists()
