# SPDX-License-Identifier: Apache-2.0
"""docs/fidelity.md: its sizes are computed, and what it names exists."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from vivit_jax.config.schema import Config

sys.path.insert(0, str(Path(__file__).parent.parent / 'experiments'))

import fidelity
from recipes import setting
from support.scenic_steps import CASES, LOSS, NORM, PARAMETERS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / 'docs' / 'fidelity.md').read_text()


def tables():
  """Returns every table of the document as rows, each a dict of cells by column."""
  found, head = [], None
  for line in TEXT.splitlines():
    if not line.startswith('|'):
      head = None
      continue
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    if head is None:
      head = cells
      found.append([])
    elif not set(line) <= set('|- '):
      found[-1].append(dict(zip(head, cells, strict=True)))
  return found


STEPS, *TABLES = tables()
ROWS = {row['what']: row for table in TABLES for row in table}


def test_rows_have_names_of_their_own_and_every_cell():
  assert len(ROWS) == sum(map(len, TABLES))
  assert all(all(row.values()) for row in ROWS.values())


@pytest.mark.parametrize('name', fidelity.SIZES)
def test_sizes_are_what_the_code_computes(name):
  assert ROWS[name]['size'] == fidelity.SIZES[name]()


def test_numbers_of_sizes_are_computed_or_another_documents():
  for name in ROWS.keys() - fidelity.SIZES.keys():
    assert not re.search(r'\d\.\d|\d%', ROWS[name]['size']), f'{name}: compute it in fidelity.py'


@pytest.mark.parametrize('name', ROWS)
def test_what_a_row_names_exists(name):
  places = re.findall(r'`([^`]+)`', ROWS[name]['where'])
  assert places
  for place in places:
    if place.startswith('vivit_jax.'):
      module, _, symbol = place.rpartition('.')
      assert hasattr(importlib.import_module(module), symbol), place
    else:
      setting(Config(), place)
  (test,) = re.findall(r'`([^`]+)`', ROWS[name]['test'])
  file, function = test.split('::')
  (path,) = (ROOT / 'tests').rglob(file)
  assert f'\ndef {function}(' in path.read_text(), test


def test_cells_of_table_7_are_counted():
  assert f'\n{fidelity.table_7()}.\n' in TEXT


def test_steps_beside_scenic_are_below_the_bars_of_their_test():
  assert {row["Scenic's run"].strip('`') for row in STEPS} == set(CASES)
  assert [float(bar) for bar in re.findall(r'\de-\d\b', TEXT.split('Bars:')[1].split('|')[0])] == [
    LOSS, NORM, PARAMETERS,
  ]  # fmt: skip
  bars = {'loss': LOSS, 'gradient norm': NORM, 'parameters': PARAMETERS}
  for row in STEPS:
    assert all(0 < float(row[column]) <= bar for column, bar in bars.items()), row
