# SPDX-License-Identifier: Apache-2.0
"""`vivit data bench` on real files: every stage is measured, with correct times."""

import json

import pytest

from support.videos import config, write_dataset
from vivit_jax.cli.main import main
from vivit_jax.data import timing
from vivit_jax.data.bench import Report, StageTime, bench, delayed
from vivit_jax.data.splits import open_split


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return write_dataset(tmp_path_factory.mktemp('bench') / 'data', 4)


def settings(root):
  return [
    '--config=configs/finetune.py',
    f'--config.data.root={root}',
    '--config.clip.frames=4',
    '--config.clip.height=32',
    '--config.clip.width=32',
    '--clips=16',
  ]


def test_the_command_prints_stages_rates_and_demand(root, capsys):
  assert main(['data', 'bench', *settings(root), '--workers=0']) == 0
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  words = {line[0]: line for line in lines if line}
  for name in (*timing.STAGES, 'transfer', 'worker', 'threads'):
    assert name in words, name
  assert words['8'][1] == '1840'
  assert float(words['8'][3]) == pytest.approx(8 * float(words['1'][3]), rel=0.3, abs=0.5)


def test_latency_is_fetching_and_no_work(root, capsys):
  options = ['--simulate-latency=20ms', '--workers=1', '--json', '--device-rate=100']
  assert main(['data', 'bench', *settings(root), *options]) == 0
  found = json.loads(capsys.readouterr().out)
  fetch = next(stage for stage in found['stages'] if stage['name'] == 'fetch')
  assert fetch['wall'] >= 20
  assert fetch['cpu'] < 10
  assert found['rates'][0]['workers'] == 1
  assert found['rates'][0]['clips_per_second'] > 0
  assert found['cores_of_one_device'] == pytest.approx(found['cpu_ms'] / 10)


def test_stages_exclude_each_other_and_are_free_if_unmeasured(monkeypatch):
  times = iter(range(100))
  monkeypatch.setattr(timing.time, 'thread_time', lambda: 0.0)
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: float(next(times)))
  with timing.collect_timings() as clock, timing.stage('decode'):
    for _ in range(3):
      with timing.stage('crop'):
        pass
  assert clock.wall == {'decode': 4.0, 'crop': 3.0}
  assert timing.stage('decode') is timing.stage('crop')


def test_unreadable_videos_are_counted(root, tmp_path):
  whole = config(root=str(write_dataset(tmp_path / 'data', 2)))
  (tmp_path / 'data' / '0.mp4').write_text('text')
  manifest = delayed(open_split(whole, 'train'), 0.0)
  result = bench(manifest, whole, clips=8, workers=(), demand=1.0)
  assert result.unreadable == 4


def test_cores_are_cpu_time_times_demand():
  seconds = {'decode': (30.0, 50.0), 'batch': (10.0, 10.0), 'transfer': (5.0, 5.0)}
  kept = tuple(StageTime(name, *spent) for name, spent in seconds.items())
  result = Report(8, 1, 0, kept, (), demand=50.0, latency=0.0)
  assert (result.cpu, result.cores(1), result.cores(8)) == (40.0, 2.0, 16.0)


@pytest.mark.parametrize(
  'option, words',
  [
    ('--workers=a', '--workers=a is not a list of numbers'),
    ('--workers=-1', '--workers=-1 is not'),
    ('--simulate-latency=50', '--simulate-latency=50 is not a time'),
    ('--clips=2', '--clips=2 is less than 8'),
    ('--device-rate=0', '--device-rate=0.0 is not'),
  ],
)
def test_mistakes_in_a_bench_are_one_line(root, capsys, option, words):
  assert main(['data', 'bench', *settings(root), option]) == 2
  error = capsys.readouterr().err
  assert words in error
  assert error.count('\n') == 1
