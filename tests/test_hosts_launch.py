# SPDX-License-Identifier: Apache-2.0
"""How a process learns that it is one of several; most are not, and must not wait for anybody."""

import argparse
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vivit_jax.errors import ConfigError
from vivit_jax.hosts import cluster, launch

ROOT = Path(__file__).parent.parent
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
  assert (cluster.process(), cluster.processes(), cluster.is_first()) == (0, 1, True)


def test_one_process_of_one_is_alone():
  start('--coordinator=127.0.0.1:1', '--processes=1', '--process=0')
  assert not jax.distributed.is_initialized()


def test_alone_everything_agrees_and_nothing_is_sent(tmp_path):
  cluster.agree({'anything': 1})
  cluster.check_shared(tmp_path / 'missing')
  assert cluster.from_first([1]) == [1]
  assert cluster.to_first(2) == [2]
  assert cluster.told('topic') == []


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--processes=2'], 'several processes need all of --coordinator=HOST:PORT'),
    (['--coordinator=a:1', '--process=0'], 'several processes need all of'),
    (['--coordinator=a', '--processes=2', '--process=0'], '--coordinator=a is not HOST:PORT'),
    (['--coordinator=a:1', '--processes=2', '--process=2'], '--process=2 must be one of 0 to N'),
    (['--coordinator=a:1', '--processes=2', '--process=-1'], '--process=-1 must be one of'),
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
  monkeypatch.setattr(launch, 'JOINING', 0.3)
  with pytest.raises(ConfigError, match=r'^--coordinator=127.0.0.1:1 does not answer \(Connection'):
    start('--coordinator=127.0.0.1:1', '--processes=2', '--process=1')


def test_launch_scripts_are_clean():
  assert [script.stem for script in SCRIPTS] == ['multi_gpu', 'slurm', 'tpu_pod', 'two_processes']
  checker = Path(sys.executable).with_name('shellcheck')
  done = subprocess.run([checker, *SCRIPTS], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.stem)
def test_every_launch_script_calls_the_same_entry_point(script):
  assert 'vivit train' in script.read_text()
