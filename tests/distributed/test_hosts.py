# SPDX-License-Identifier: Apache-2.0
"""Two real processes as one run: they agree or refuse, train and test like one, and one writes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.hosts import FOUR_DEVICES, SCRIPT, free_port
from support.hosts_program import evaluated
from support.runs import ROOT, environment
from support.steps import MESHES, config_of, five_steps
from support.videos import write_dataset, write_video
from vivit_jax.config.schema import Mesh

QUICK = 'spatio_temporal:all'
BAD = ('3.mp4', '10.mp4')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  """Splits that two processes divide unevenly: 13 videos with two bad ones, 6, and one alone."""
  root = write_dataset(tmp_path_factory.mktemp('videos') / 'data', 13)
  for k in range(13):
    write_video(root / f'{k}.mp4', 8 + 2 * k)  # so that each looks different
  for name in BAD:
    (root / name).write_text('no video')
  rows = (root / 'train.csv').read_text().splitlines()
  (root / 'validation.csv').write_text('\n'.join(rows[:7]) + '\n')
  (root / 'test.csv').write_text('\n'.join(rows[:2]) + '\n')
  return root


def run_pair(root: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
  """Runs tests/support/hosts_program.py in two processes of four devices each."""
  folder.mkdir(exist_ok=True)
  done = subprocess.run(
    [SCRIPT, sys.executable, 'tests/support/hosts_program.py', str(root), str(folder), *options],
    cwd=ROOT,
    env=environment(
      XLA_FLAGS=FOUR_DEVICES, PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', PORT=str(free_port())
    ),
    capture_output=True,
    text=True,
    timeout=900,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done


def outcomes(folder: Path) -> list[dict]:
  """Returns what each of the two found."""
  return [json.loads((folder / f'{process}.json').read_text()) for process in (0, 1)]


@pytest.fixture(scope='module')
def pair(videos, tmp_path_factory):
  """The folder in which both processes left what they found, and their output."""
  folder = tmp_path_factory.mktemp('pair')
  options = ('--losses', QUICK, '--splits', 'train', 'validation', 'test')
  return folder, run_pair(videos, folder, *options)


@pytest.fixture(scope='module')
def found(pair):
  """What each of the two found."""
  return outcomes(pair[0])


def test_each_process_brings_its_devices(found):
  assert [one['devices'] for one in found] == [[8, 4], [8, 4]]


def test_only_the_first_process_prints(pair):
  # JAX's Gloo prints a line of its own, which may arrive in two parts.
  lines = [line for line in pair[1].stdout.splitlines() if line and 'peer ranks' not in line]
  assert lines[0].startswith('vivit: 127.0.0.1:')
  assert lines[1:] == ['process 0 is done']


def test_values_reach_those_they_are_meant_for(found):
  first, second = (one['conversation'] for one in found)
  assert first['broadcast'] == second['broadcast'] == {'a': 0}
  assert (first['gather_to_first'], second['gather_to_first']) == ([0, 10], [])
  assert first['neighbors'] == second['neighbors'] == 2
  messages, again = first['collected']
  assert sorted(messages) == [[1, number] for number in range(12)]
  assert again == []


def test_all_processes_say_alike_what_differs(found):
  said = {name: one for name, one in found[0]['said'].items() if name != 'apart'}
  assert {name: found[1]['said'][name] for name in said} == said
  end = ': start the same command, code and data on every host'
  assert said['value'] == 'config.seed is 3 in process 0 and 4 in process 1' + end
  assert said['missing'] == "new is None in process 0 and 'missing' in process 1" + end
  assert said['both'] == (
    "config.seed is '0' in process 0 and '1' in process 1; code is 0 in process 0 and 1 in "
    'process 1' + end
  )


def test_a_folder_that_hosts_do_not_share_is_refused(found, pair):
  for process in (0, 1):
    said = found[process]['said']
    assert 'shared' not in said
    assert said['apart'] == (
      f'--workdir={pair[0]}/own{process} of process 0 does not exist for process 1: give a '
      'folder on a file system that all hosts share'
    )
  assert not list(pair[0].rglob('.seen-*'))


def assert_losses_of_one_device(found, which):
  attention = which.partition(':')[0]
  _, one = five_steps(config_of(attention, Mesh()), 1)
  assert found[0]['losses'][which] == found[1]['losses'][which]
  assert found[0]['losses'][which] == pytest.approx([step['loss'] for step in one], rel=1e-5)


def test_five_steps_are_those_of_one_device(found):
  assert_losses_of_one_device(found, QUICK)


@pytest.mark.faults
def test_five_steps_on_every_mesh_are_those_of_one_device(videos, tmp_path):
  which = [f'factorised_encoder:{mesh}' for mesh in MESHES]
  run_pair(videos, tmp_path, '--losses', *which)
  for one in which:
    assert_losses_of_one_device(outcomes(tmp_path), one)


@pytest.mark.parametrize('split, seen', [('train', 11), ('validation', 5), ('test', 1)])
def test_multi_view_evaluation_equals_one_process_bit_for_bit(
  pair, found, videos, tmp_path, split, seen
):
  alone, results = evaluated(videos, split, tmp_path)
  assert results['videos'] == seen
  assert len(np.unique(alone.logit_sums[alone.seen], axis=0)) == seen
  for process in (0, 1):
    assert found[process]['results'][split] == json.loads(json.dumps(results))
    with np.load(pair[0] / f'{split}{process}.npz') as together:
      for name in ('logit_sums', 'views', 'labels', 'clip_hits'):
        assert np.array_equal(together[name], getattr(alone, name)), name


def test_bad_videos_of_both_processes_are_listed_once(pair, videos):
  with (pair[0] / 'skipped.csv').open(newline='') as file:
    listed = [row['path'] for row in csv.DictReader(file)]
  assert sorted(listed) == sorted(str(videos / name) for name in BAD)
