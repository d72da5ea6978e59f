# SPDX-License-Identifier: Apache-2.0
"""Detection of multi-process runs; a single process must not wait for others."""

import argparse
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vivit_jax.distributed import hosts, launch
from vivit_jax.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / 'experiments' / 'launch').glob('*.sh'))
STEP = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'node[1-2]', 'SLURM_PROCID': '0'}


def start(*arguments: str) -> None:
  parser = argparse.ArgumentParser()
  launch.add_launch(parser)
  launch.start(parser.parse_args(arguments), 60)


@pytest.mark.parametrize(
  'variables',
  [
    {},
    # The script of a job, before srun; and the shell of an allocation of four tasks.
    {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'},
    {**STEP, 'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_TASKS': '1'},
    {**STEP, 'SLURM_NTASKS': '1'},
  ],
)
def test_a_process_alone_joins_nobody(monkeypatch, variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  start()
  assert not jax.distributed.is_initialized()
  assert (hosts.process(), hosts.processes(), hosts.is_first()) == (0, 1, True)


def test_one_process_of_one_is_alone():
  start('--coordinator=127.0.0.1:1', '--processes=1', '--process=0')
  assert not jax.distributed.is_initialized()


def test_alone_everything_agrees_and_nothing_is_sent(tmp_path):
  hosts.assert_equal_on_all_hosts({'anything': 1})
  hosts.check_shared(tmp_path / 'missing')
  assert hosts.broadcast([1]) == [1]
  assert hosts.gather_to_first(2) == [2]
  assert hosts.collect('topic') == []


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--processes=2'], 'several processes need all of --coordinator=HOST:PORT'),
    (['--coordinator=a:1', '--process=0'], 'several processes need all of'),
    (['--coordinator=a', '--processes=2', '--process=0'], '--coordinator=a is not HOST:PORT'),
    (['--coordinator=a:1', '--processes=2', '--process=2'], '--process=2 must be from 0 to N'),
    (['--coordinator=a:1', '--processes=2', '--process=-1'], '--process=-1 must be from'),
  ],
)
def test_options_that_cannot_be_used(arguments, message):
  with pytest.raises(ConfigError) as error:
    start(*arguments)
  assert str(error.value).startswith(message)


def test_an_address_in_the_environment_alone_is_not_ignored(monkeypatch):
  monkeypatch.setenv(launch.ADDRESS, '127.0.0.1:1')
  with pytest.raises(ConfigError, match='--processes=N and --process=I'):
    start()


def test_a_port_that_is_taken_is_one_line():
  with socket.socket() as other:
    other.bind(('', 0))
    other.listen()
    address = f'127.0.0.1:{other.getsockname()[1]}'
    with pytest.raises(ConfigError, match=f'^--coordinator={address} cannot be used: .*; give ano'):
      start(f'--coordinator={address}', '--processes=2', '--process=0')


def test_a_coordinator_that_does_not_answer_is_one_line(monkeypatch):
  monkeypatch.setattr(launch, 'JOIN_TIMEOUT_SECONDS', 0.3)
  with pytest.raises(ConfigError, match=r'^--coordinator=127.0.0.1:1 does not answer \(Connection'):
    start('--coordinator=127.0.0.1:1', '--processes=2', '--process=1')


@pytest.mark.parametrize('name', ['SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'])
def test_a_number_of_slurm_that_is_none_is_one_line(monkeypatch, name):
  for other, value in {**STEP, 'SLURM_NTASKS': '4', 'SLURM_LOCALID': '0', name: 'abc'}.items():
    monkeypatch.setenv(other, value)
  with pytest.raises(ConfigError, match=f"^{name}='abc' in the environment is not a number: "):
    start()


def python(source: str, *arguments: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', source, *arguments],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


MEET = """
import sys
from vivit_jax.errors import report
from vivit_jax.distributed import meeting
meeting.DELAY = 0.0
address, process, processes, seconds = sys.argv[1:]
try:
  meeting.meet(address, int(processes), int(process), float(seconds))
  print('met')
except (Exception, KeyboardInterrupt) as error:
  sys.exit(report(error))
"""


def meet(address: str, *numbers: tuple[int, int], seconds: float = 60.0) -> list[subprocess.Popen]:
  """Starts a process for each (its number, how many it takes them to be)."""
  return [python(MEET, address, str(one), str(many), str(seconds)) for one, many in numbers]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
  """Returns exit codes, last lines of the output and errors."""
  found = []
  for process in processes:
    with process:
      out, err = process.communicate(timeout=60)
      found.append((process.returncode, (out.splitlines() or [''])[-1], err))
  return found


@pytest.fixture
def address():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{probe.getsockname()[1]}'


def test_processes_meet_whoever_else_knocks(address):
  (first,) = meet(address, (0, 3))
  assert 'waits for processes 1, 2 of 3' in first.stdout.readline()
  for said in (b'', b'GET / HTTP/1.1\r\n\r\n', b'[1]\n', b'{"process": "x", "processes": 3}\n'):
    with socket.create_connection(('127.0.0.1', int(address[10:]))) as stranger:
      stranger.sendall(said)
  assert ends([first, *meet(address, (1, 3), (2, 3))]) == [(0, 'met', '')] * 3


@pytest.mark.parametrize('counts', [(2, 3), (3, 2)])
def test_other_numbers_of_processes_end_all_with_both(address, counts):
  found = ends(meet(address, (0, counts[0]), (1, counts[1])))
  line = (
    'vivit: error: the number of processes is {} in process 0 and {} in process 1: start the same '
    'command on every host, each with its number\n'
  ).format(*counts)
  assert [(code, err) for code, _, err in found] == [(2, line)] * 2


def test_the_same_number_twice_ends_all(address):
  found = ends(meet(address, (0, 3), (1, 3), (1, 3)))
  assert {code for code, _, _ in found} == {2}
  assert all('error: two processes have --process=1: start the' in err for _, _, err in found)


def test_a_process_that_does_not_come_is_named_to_all_that_did(address):
  found = ends(meet(address, (0, 3), (1, 3), seconds=6.0))
  line = 'vivit: error: process 2 of 3 did not connect within 6 s: start the same command on every '
  assert all(code == 2 and err.startswith(line) for code, _, err in found), found


@pytest.mark.parametrize('number', [0, 1])
def test_waiting_can_be_interrupted(address, number):
  (process,) = meet(address, (number, 2))
  assert process.stdout.readline().startswith('vivit: ')
  process.send_signal(signal.SIGINT)
  ((code, _, err),) = ends([process])
  assert (code, err) == (130, 'vivit: interrupted\n')


def test_launch_scripts_are_clean():
  assert [script.stem for script in SCRIPTS] == ['multi_gpu', 'slurm', 'tpu_pod', 'two_processes']
  checker = Path(sys.executable).with_name('shellcheck')
  done = subprocess.run([checker, *SCRIPTS], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.stem)
def test_every_launch_script_calls_the_same_entry_point(script):
  assert 'vivit train' in script.read_text()
