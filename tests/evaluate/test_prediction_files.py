# SPDX-License-Identifier: Apache-2.0
"""Predictions as CSV and Parquet: every class's probability, whole files or none."""

import csv
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from pyarrow import parquet

from support.videos import write_video
from support.working_models import pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Task
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.prediction_files import ROWS, check_target, prediction_file

TASK = Task(heads=('verb', 'noun'), classes=(2, 3))
LABELS = ('run, fast', 'sit', 'cat', 'cat', '犬')
COLUMNS = ['path', 'verb', 'verb:run, fast', 'verb:sit']
COLUMNS += ['noun', 'noun:cat', 'noun:cat 1', 'noun:犬']


def read(file):
  """Returns a file's columns and rows, cells as text or numbers; empty ones as None."""
  if file.suffix == '.parquet':
    table = parquet.read_table(file)
    return table.column_names, [list(row.values()) for row in table.to_pylist()]
  with file.open(newline='') as handle:
    header, *rows = csv.reader(handle)
  return header, [[_cell(cell) for cell in row] for row in rows]


def _cell(cell):
  try:
    return float(cell)
  except ValueError:
    return cell or None


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_rows_come_back_as_they_were_written(tmp_path, rng, kind):
  file = tmp_path / f'found.{kind}'
  shares = rng.dirichlet(np.ones(5), ROWS + 2)
  with prediction_file(file, TASK, LABELS, {'path': str}) as rows:
    for k, own in enumerate(shares):
      rows.write([f'{k}.mp4'], own)
      assert not file.exists()
    rows.write(['bad.mp4'], None)
  header, found = read(file)
  assert header == COLUMNS
  assert found[-1] == ['bad.mp4', *[None] * 7]
  assert len(found) == len(shares) + 1
  for k, own in enumerate(shares):
    assert found[k][1] == LABELS[own[:2].argmax()]
    assert found[k][4] == LABELS[2 + own[2:].argmax()]
    numbers = [found[k][i] for i in (2, 3, 5, 6, 7)]
    np.testing.assert_allclose(numbers, own, rtol=1e-5)


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path, kind):
  file = tmp_path / f'found.{kind}'
  file.write_text('earlier')

  def write():
    with prediction_file(file, TASK, LABELS, {'path': str}) as rows:
      for _ in range(ROWS + 1):
        rows.write(['a.mp4'], np.ones(5))
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write()
  assert [path.name for path in tmp_path.iterdir()] == [file.name]
  assert file.read_text() == 'earlier'


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from vivit_jax.config.schema import Task
from vivit_jax.errors import report
from vivit_jax.evaluate.prediction_files import prediction_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
  with prediction_file(Path(sys.argv[1]), Task(classes=(50,)), None, {'path': str}) as rows:
    for k in range(600):
      rows.write([f'{k}.mp4'], np.random.default_rng(k).random(50))
except OSError as error:
  sys.exit(report(error))
"""


@pytest.mark.parametrize('kind', ['csv', 'parquet'])
def test_a_full_disk_leaves_no_half_of_a_prediction_file(tmp_path, kind):
  """A limit on the size of files stands for a disk that fills up in the middle of one."""
  file = tmp_path / f'found.{kind}'
  result = subprocess.run(
    [sys.executable, '-W', 'error', '-c', FULL, str(file)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2, result.stderr
  assert result.stderr == f'vivit: error: {file}: {os.strerror(errno.EFBIG)}\n'
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('there.csv', 'exists: give another file'),
    ('new.json', 'unknown suffix: use .csv or .parquet'),
    ('none/new.csv', 'none does not exist'),
  ],
)
def test_targets_that_cannot_be_written(tmp_path, name, message):
  (tmp_path / 'there.csv').write_text('')
  with pytest.raises(ConfigError, match=message):
    check_target(tmp_path / name, '--output')


def test_predict_writes_what_it_prints(tmp_path, capsys):
  checkpoint = save(pretrained(), tmp_path / 'x.safetensors')
  good, bad = write_video(tmp_path / 'good.mp4', 12), tmp_path / 'bad.mp4'
  bad.write_text('no video')
  arguments = ['predict', f'--checkpoint={checkpoint}', '--views=1x1', str(good), str(bad)]
  assert main([*arguments, '--json']) == 1
  printed = json.loads(capsys.readouterr().out)['videos']
  tables = {}
  for kind in ('csv', 'parquet'):
    file = tmp_path / f'found.{kind}'
    assert main([*arguments, f'--output={file}']) == 1
    assert capsys.readouterr().out == f'2 videos -> {file}; 1 have no prediction\n'
    header, rows = read(file)
    tables[kind] = [dict(zip(header, row, strict=True)) for row in rows]
  for name in ('path', 'frames', 'used', 'error'):
    for table in tables.values():
      assert [row[name] for row in table] == [video[name] for video in printed]
  (best,) = printed[0]['heads']
  for answer in printed[0]['heads'][best]:
    for table in tables.values():
      found = table[0][f'{best}:{answer["label"]}']
      assert found == pytest.approx(answer['probability'], rel=1e-5)
      assert table[1][f'{best}:{answer["label"]}'] is None
  assert tables['parquet'][0][best] == printed[0]['heads'][best][0]['label']
