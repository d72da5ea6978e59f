# SPDX-License-Identifier: Apache-2.0
"""The notebooks in docs/ run from the first cell to the last, and show no machine's paths."""

import json
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'docs' / 'notebooks').glob('*.ipynb'))
every = pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)


def cells(file):
  return [cell for cell in json.loads(file.read_text())['cells'] if cell['cell_type'] == 'code']


@every
def test_a_notebook_was_executed_in_order(file):
  counts = [cell['execution_count'] for cell in cells(file)]
  assert counts == list(range(1, len(counts) + 1))
  outputs = json.dumps([cell['outputs'] for cell in cells(file)])
  for unwanted in ('/root', '/home', '/tmp', '"error"', '"stderr"'):
    assert unwanted not in outputs


@every
def test_a_notebook_runs(file, tmp_path, monkeypatch, request, compiled_once):
  if file.stem != 'mesh':  # it is about the eight virtual devices that tests have
    request.getfixturevalue('one_device')
  shutil.copy(file.parent / 'digits.safetensors', tmp_path)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(mpl, 'interactive', lambda on: None)
  mpl.use('agg')
  names = {}
  for cell in cells(file):
    exec(compile(''.join(cell['source']), file.name, 'exec'), names)
  if file.stem == 'first_steps':
    assert names['model'].predict(names['frames'], views=(4, 3))[0][0] == 'left'
  if file.stem == 'own_videos':
    assert names['model'].labels == ('bouncing', 'rolling')
  if file.stem == 'mesh':
    assert max(abs(a - b) for a, b in zip(names['one'], names['other'], strict=True)) < 1e-4
