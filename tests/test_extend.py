# SPDX-License-Identifier: Apache-2.0
"""The lines of docs/extend.md make a fifth factorisation of a copy of the package."""

import re
import shutil
import subprocess
import sys

import pytest

from support.commands import ROOT
from support.runs import environment, settings

PAGE = (ROOT / 'docs' / 'extend.md').read_text()


@pytest.mark.faults
def test_the_factorisation_of_the_page_trains(tmp_path):
  shutil.copytree(ROOT / 'vivit_jax', tmp_path / 'vivit_jax')
  shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
  (diff,) = re.findall(r'^```diff\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
  for name, place, lines in re.findall(
    r'^\+\+\+ b/(\S+)\n@@ (.*)\n((?:\+.*\n?)+?)(?=---|\Z)', diff, re.MULTILINE
  ):
    file, added = tmp_path / name, re.sub(r'^\+', '', lines, flags=re.MULTILINE)
    text = file.read_text()
    assert text.count(f'{place}\n') == 1
    file.write_text(text.replace(f'{place}\n', f'{place}\n{added}'))
  run = ['train', *settings(model__attention='time_encoder_first', train__steps=2)]
  for command in (
    ['inspect', '--config=kinetics400:Ti/16x2,time_encoder_first'],
    [
      *run,
      '--config.train.evaluate_every=2',
      '--config.clip.frames=8',
      f'--workdir={tmp_path}/run',
    ],
  ):
    result = subprocess.run(
      [sys.executable, '-m', 'vivit_jax', *command], cwd=tmp_path, capture_output=True, text=True,
      env=environment(PYTHONPATH=str(tmp_path)), check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'time_encoder_first' in result.stdout
