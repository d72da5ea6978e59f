# SPDX-License-Identifier: Apache-2.0
"""A whole run over data of which a tenth is bad: it ends, and lists exactly the bad files."""

import csv
import shutil
from pathlib import Path

import pytest

from support.bad_files import BAD
from support.runs import tiny
from vivit_jax.data.splits import open_split
from vivit_jax.train.loop import train

KINDS = ('flipped bits', 'zeroed frames', 'huge frames', 'endless device', 'audio only', 'playlist')


@pytest.mark.usefixtures('one_device')
def test_a_run_over_bad_files_completes_and_lists_them(tmp_path):
  root = tmp_path / 'data'
  shutil.copytree(Path(open_split(tiny(), 'train').videos[0].path).parents[1], root)
  bad = {}
  for k, kind in enumerate(KINDS):  # of 64
    file = root / 'train' / f'{10 * k:05}.mp4'
    file.unlink()
    BAD[kind][0](file)
    bad[str(file)] = BAD[kind][1]
  views = {'evaluate__temporal_views': 1, 'evaluate__spatial_views': 1}
  config = tiny(data__source='manifests', data__root=root, train__steps=8, **views)  # one epoch
  results = train(config, tmp_path / 'run')
  assert results['videos'] == 21
  with (tmp_path / 'run' / 'skipped.csv').open(newline='') as handle:
    header, *rows = csv.reader(handle)
  assert header == ['path', 'reason']
  assert sorted(path for path, _ in rows) == sorted(bad)
  for path, reason in rows:
    assert reason.startswith(bad[path])
