# SPDX-License-Identifier: Apache-2.0
"""Where the time goes: every second is counted once, compilation wherever it happens."""

import math
import time

import jax
import jax.numpy as jnp
import pytest

from vivit_jax.train.device_clock import DeviceClock
from vivit_jax.train.goodput import ACTIVITIES, Goodput


def test_every_second_is_counted_once_and_compilation_apart(capsys):
  began = time.monotonic()
  with Goodput() as goodput:
    goodput.spent('start')
    with goodput.during('evaluation'):
      jax.jit(lambda x: x * 3.25 + 1)(1.0)  # compiles
    time.sleep(0.05)
    goodput.spent('input')
    with goodput.during('checkpoint'):
      time.sleep(0.02)
    total = time.monotonic() - began
  seconds = goodput.seconds
  assert list(seconds) == list(ACTIVITIES)
  assert sum(seconds.values()) == pytest.approx(total, abs=0.01)
  assert seconds['input'] >= 0.05
  assert seconds['checkpoint'] >= 0.02
  assert 0 < seconds['compile'] < total
  assert min(seconds.values()) >= 0
  line = capsys.readouterr().out
  assert line.startswith('time: step ')
  assert line.count('%') == len(ACTIVITIES)
  before = dict(seconds)
  jax.jit(lambda x: x * 1.75)(1.0)  # nobody listens any more
  goodput.spent('step')
  assert seconds['compile'] == before['compile']


def test_a_command_that_trained_nothing_says_nothing(capsys):
  with Goodput() as goodput, goodput.during('evaluation'):
    pass
  assert capsys.readouterr().out == ''


def test_a_wait_counts_from_when_the_devices_had_finished():
  # Half a second on an idle core.
  step = jax.jit(lambda x: jax.lax.fori_loop(0, 60, lambda _, y: y @ x, x).sum())
  x = jnp.zeros((600, 600))
  step(x).block_until_ready()
  devices = DeviceClock()
  assert devices.idle_since() == -math.inf, 'no step yet'
  result = step(x)
  devices.dispatched(result)
  assert devices.idle_since() == math.inf
  before = time.monotonic()
  result.block_until_ready()
  while devices.idle_since() == math.inf:
    time.sleep(0.001)
  idle = devices.idle_since()
  assert before < idle <= time.monotonic()
  time.sleep(0.01)
  assert devices.idle_since() == idle
