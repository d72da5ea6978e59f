# SPDX-License-Identifier: Apache-2.0
"""A hung process is ended with the stacks of all threads, even if it holds the interpreter lock."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from support.runs import ROOT
from vivit_jax.train.watchdog import Watchdog

PROGRAM = """
import ctypes, threading, time
from vivit_jax.train.watchdog import Watchdog

def a_thread_that_waits():
  time.sleep(60)

threading.Thread(target=a_thread_that_waits, daemon=True).start()
with Watchdog({seconds}) as watchdog:
  watchdog.expect('a long thing', 100.0)
  for k in range(5):
    watchdog.expect(f'thing {{k}}')
    time.sleep({seconds} / 2)
  {hang}
print('reached the end')
"""


def ended(seconds, hang):
  """Runs the program; returns exit code, its output, lines on standard error and seconds."""
  began = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM.format(seconds=seconds, hang=hang)],
    cwd=ROOT, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr.splitlines(), time.monotonic() - began


def test_a_thread_that_waits_for_ever():
  code, out, lines, _ = ended(0.4, 'threading.Event().wait()')
  assert (code, out) == (1, '')
  assert any('a_thread_that_waits' in line for line in lines)
  assert any('<module>' in line for line in lines)
  assert lines[-1].startswith('vivit: error: thing 4 did not come within 0.4 s: the stacks above ')
  assert '--config.faults.hang_timeout_seconds=0.4' in lines[-1]


def test_a_call_that_never_gives_the_interpreter_back():
  code, out, lines, seconds = ended(0.4, 'ctypes.PyDLL(None).sleep(60)')
  assert (code, out) == (-signal.SIGUSR2, '')  # from the guard: no line of Python's can run
  assert lines[0].startswith('Timeout (')
  assert any('a_thread_that_waits' in line for line in lines)
  assert seconds < 40


STOPPED = """
import time
from vivit_jax.train.watchdog import Watchdog

with Watchdog(3.0) as watchdog:
  watchdog.expect('the end')
  print('begun', flush=True)
  time.sleep(1.0)
  print('slept', flush=True)
"""


@pytest.mark.parametrize('seconds', [3.5, pytest.param(10.0, marks=pytest.mark.faults)])
def test_time_while_the_process_is_stopped_does_not_count(seconds):
  # The longer one outlasts the guard's limit of 8.6 s too.
  with subprocess.Popen(
    [sys.executable, '-c', STOPPED],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'begun\n'
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
  assert (process.returncode, out, err) == (0, 'slept\n', '')


def test_no_limit_and_no_hang():
  assert ended(0.0, 'time.sleep(0.1)')[:3] == (0, 'reached the end\n', [])
  before = threading.active_count()
  with Watchdog(60.0) as watchdog:
    watchdog.expect('nothing in particular')
  deadline = time.monotonic() + 10
  while threading.active_count() > before:
    assert time.monotonic() < deadline
    time.sleep(0.01)
