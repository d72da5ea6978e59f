# SPDX-License-Identifier: Apache-2.0
"""What hangs is ended with the stacks of all threads, even if it holds the interpreter's lock."""

import subprocess
import sys
import threading
import time

from test_train_loop import ROOT

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
  assert '--config.faults.hang_seconds=0.4' in lines[-1]


def test_a_call_that_never_gives_the_interpreter_back():
  code, out, lines, seconds = ended(0.4, 'ctypes.PyDLL(None).sleep(60)')
  assert (code, out) == (1, '')
  assert lines[0].startswith('Timeout (')
  assert any('a_thread_that_waits' in line for line in lines)
  assert seconds < 40


def test_no_limit_and_no_hang():
  assert ended(0.0, 'time.sleep(0.1)')[:3] == (0, 'reached the end\n', [])
  before = threading.active_count()
  with Watchdog(60.0) as watchdog:
    watchdog.expect('nothing in particular')
  deadline = time.monotonic() + 10
  while threading.active_count() > before:
    assert time.monotonic() < deadline
    time.sleep(0.01)
