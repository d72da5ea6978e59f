# SPDX-License-Identifier: Apache-2.0
"""`vivit train --profile`: a trace that can be opened, of the steps that were asked for."""

import gzip
import json
import re

import jax
import pytest

from vivit_jax.cli.main import main
from vivit_jax.errors import ConfigError
from vivit_jax.train.profile import Profiler, Steps, parse_steps


@pytest.mark.parametrize('text', ['', '5', '0:3', '7:5', 'a:b', '1:2:3', '-1:4', '1.5:2'])
def test_what_is_no_range_is_one_line(text, tmp_path, capsys):
  with pytest.raises(ConfigError, match=re.escape(f'--profile={text} is not FIRST:LAST')):
    parse_steps(text)
  arguments = ['train', '--config=configs/moving_digits.py', f'--workdir={tmp_path}']
  assert main([*arguments, f'--profile={text}']) == 2
  assert capsys.readouterr().err.count('\n') == 1


def run(workdir, text, start, steps):
  """Does the steps of a run that goes on after `start`, each a small program."""
  program = jax.jit(lambda x: x + 1)
  with Profiler(parse_steps(text), workdir, start, steps) as profiler:
    for step in range(start + 1, steps + 1):
      profiler.before(step)
      with jax.profiler.TraceAnnotation(f'this is step {step}'):
        x = program(1.0)
      profiler.after(step, x)


def test_the_steps_that_were_asked_for_are_traced(tmp_path, capsys):
  run(tmp_path, '3:4', 1, 6)
  said = capsys.readouterr().out
  assert said.startswith('trace of steps 3 to 4: open ')
  assert f'xprof --logdir={tmp_path / "profile"}' in said
  file = said.split()[7]
  with gzip.open(file) as content:
    names = {event.get('name') for event in json.load(content)['traceEvents']}
  assert {f'this is step {k}' for k in (3, 4)} <= names
  assert not {f'this is step {k}' for k in (2, 5, 6)} & names


def test_a_run_that_goes_on_later_traces_what_is_left_or_says_so(tmp_path, capsys):
  run(tmp_path, '2:4', 3, 5)
  assert capsys.readouterr().out.startswith('trace of steps 4 to 4: open ')
  run(tmp_path / 'none', '2:3', 3, 5)
  printed = capsys.readouterr()
  assert printed.out == ''
  assert printed.err.startswith(
    'vivit: warning: --profile=2:3 traces nothing: this run resumes after'
  )
  assert not (tmp_path / 'none').exists()


def test_steps_after_the_end_are_refused(tmp_path):
  with pytest.raises(ConfigError, match='--profile=4:9 ends after the 5 steps of this run'):
    Profiler(Steps(4, 9), tmp_path, 0, 5)
