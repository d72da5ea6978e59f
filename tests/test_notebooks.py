# SPDX-License-Identifier: Apache-2.0
"""The notebooks in docs/ run from the first cell to the last, and show no machine's paths."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'docs' / 'notebooks').glob('*.ipynb'))


def cells(file):
  return [cell for cell in json.loads(file.read_text())['cells'] if cell['cell_type'] == 'code']


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_was_executed_in_order(file):
  counts = [cell['execution_count'] for cell in cells(file)]
  assert counts == list(range(1, len(counts) + 1))
  outputs = json.dumps([cell['outputs'] for cell in cells(file)])
  assert '/root' not in outputs
  assert '/home' not in outputs
  assert '/tmp' not in outputs
  assert '"error"' not in outputs


@pytest.mark.faults
@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, monkeypatch, one_device):
  monkeypatch.setattr(mpl, 'interactive', lambda on: None)
  mpl.use('agg')
  names = {}
  for cell in cells(file):
    exec(compile(''.join(cell['source']), file.name, 'exec'), names)
