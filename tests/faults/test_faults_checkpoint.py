# SPDX-License-Identifier: Apache-2.0
"""Damaged checkpoints, missing files, kills during a save, and full disks: nothing is lost."""

import gc
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.checkpoints import abstract, leftovers
from support.runs import command, saved_state, settings, start, tiny
from vivit_jax.checkpoint.fingerprint import describe, fingerprint
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.data.splits import open_split
from vivit_jax.errors import CheckpointError, DamagedError
from vivit_jax.train.state import TrainState

ROOT = Path(__file__).parent.parent.parent

# Tensorstore's threads report to an event loop that Orbax has closed by then.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def state(step: int) -> TrainState:
  """Returns a state of every type that is saved, random, of that step."""
  rng = np.random.default_rng(step)
  params = {
    # Beyond some 1,000 bytes Orbax keeps values apart, without a checksum of their own.
    'kernel': jnp.asarray(rng.normal(size=(64, 48)), jnp.float32),
    'half': jnp.asarray(rng.normal(size=(2000,)), jnp.bfloat16),
    'bias': jnp.asarray(rng.normal(size=5), jnp.float32),
  }
  moments = {'count': jnp.asarray(step, jnp.int32), 'kernel': params['kernel'] * 2}
  return TrainState(jnp.asarray(step, jnp.int32), params, (moments,))


def same(one, other) -> bool:
  """Returns whether two trees have the same bits."""
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.fixture
def run(tmp_path):
  """A workdir with steps 4 and 8, and the best of step 8."""
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (4, 8):
      checkpoints.save(step, state(step), {'data': 'x'})
    checkpoints.save_best(8, state(8).params, 0.5)
  yield tmp_path
  gc.collect()  # what Orbax's threads left, while the filter above holds


def newest(workdir: Path) -> TrainState | None:
  """Returns the state that a run would continue from."""
  with Checkpoints(workdir, keep=2) as checkpoints:
    return checkpoints.restore_newest(abstract(state(0)))


def flip_one_bit(file: Path, rng: random.Random) -> None:
  """Flips a random bit of a file."""
  content = bytearray(file.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  file.write_bytes(content)


@pytest.mark.parametrize(
  ('seed', 'flips'), [(0, 20), pytest.param(1, 200, marks=pytest.mark.faults)]
)
def test_a_flipped_bit_is_found_and_the_step_before_is_used(run, capsys, seed, flips):
  rng = random.Random(seed)
  step = run / 'checkpoints' / '8'
  files = [file for file in sorted(step.rglob('*')) if file.is_file() and file.stat().st_size]
  sizes = [file.stat().st_size for file in files]
  found = 0
  for number in range(flips):
    # Every other flip as it would fall on the disk, the others mostly in small files of metadata.
    file = rng.choices(files, sizes if number % 2 else None)[0]
    before = file.read_bytes()
    flip_one_bit(file, rng)
    restored, err = newest(run), capsys.readouterr().err
    if err:
      assert same(restored, state(4)), file
      assert err.startswith(f'vivit: warning: {step} is damaged (')
      assert err.endswith('): step 4 is used instead; the damaged step was moved to damaged-8\n')
      assert err.count('\n') == 1
      (step.parent / 'damaged-8').rename(step)
      found += 1
    else:
      assert same(restored, state(8)), file
    file.write_bytes(before)
  assert found  # about a third: the others change no array
  print(f'{found} of {flips} found')


@pytest.mark.parametrize(
  ('seed', 'flips'), [(0, 10), pytest.param(1, 100, marks=pytest.mark.faults)]
)
@pytest.mark.parametrize('wanted', ['best', 'last'])
def test_weights_with_a_flipped_bit_are_not_read(run, wanted, seed, flips):
  rng = random.Random(seed)
  step = run / ('best' if wanted == 'best' else 'checkpoints') / '8'
  files = [step / 'about' / 'metadata', *step.glob('*/d/*'), *step.glob('*/ocdbt*/d/*')]
  refused = 0
  for number in range(flips):
    file = files[number % len(files)]
    before = file.read_bytes()
    flip_one_bit(file, rng)
    with Checkpoints(run, read_only=True) as checkpoints:
      try:
        read = checkpoints.read_params(wanted)[0]
      except DamagedError:
        refused += 1
      else:
        assert same(read, state(8).params)
    file.write_bytes(before)
  assert refused


def test_every_flip_of_one_element_changes_its_fingerprint(rng):
  for dtype in (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_):
    array = np.asarray(jnp.asarray(rng.integers(0, 2, 7), dtype))
    before = int(fingerprint(array))
    bits = [0] if dtype == jnp.bool_ else range(8)
    for byte in range(array.nbytes):
      for bit in bits:
        content = bytearray(array.tobytes())
        content[byte] ^= 1 << bit
        assert int(fingerprint(np.frombuffer(content, array.dtype))) != before
    assert int(fingerprint(array[::-1].copy())) != before or same(array, array[::-1])


def test_the_fingerprint_is_the_same_on_any_devices():
  tree = {'a': np.random.default_rng(0).normal(size=(8, 24)).astype('float32'),
          'b': jnp.arange(64, dtype=jnp.bfloat16).reshape(8, 8),
          'key': jax.random.key(3)}  # fmt: skip
  expected = describe(tree)
  assert expected['a'][0] == 'float32[8, 24]'
  for shape, spec in [((1, 1), ('x',)), ((2, 1), ('x',)), ((8, 1), ('x',)), ((2, 4), ('x', 'y')),
                      ((4, 2), (('x', 'y'),)), ((2, 4), (None, 'x'))]:  # fmt: skip
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    sharding = jax.NamedSharding(jax.sharding.Mesh(devices, ('x', 'y')), jax.P(*spec))
    placed = {name: jax.device_put(tree[name], sharding) for name in ('a', 'b')}
    assert describe({**tree, **placed}) == expected


@pytest.mark.parametrize(('seed', 'times'), [(0, 6), pytest.param(1, 40, marks=pytest.mark.faults)])
def test_of_a_half_deleted_step_the_one_before_is_used(run, capsys, seed, times):
  rng = random.Random(seed)
  step, whole = run / 'checkpoints' / '8', run / 'whole'
  shutil.copytree(step, whole)
  fell_back = 0
  for _ in range(times):
    files = [file for file in sorted(step.rglob('*')) if file.is_file()]
    for file in rng.sample(files, rng.randint(1, len(files))):
      if rng.random() < 0.7:
        file.unlink()
      else:
        file.write_bytes(file.read_bytes()[: rng.choice((0, file.stat().st_size // 2))])
    restored, err = newest(run), capsys.readouterr().err
    fell_back += bool(err)
    assert same(restored, state(4 if err else 8))
    shutil.rmtree(step.parent / ('damaged-8' if err else '8'))
    shutil.copytree(whole, step)
  assert fell_back >= times / 2


PARTS = {
  'state': 'checkpoints/8/state',
  'about': 'checkpoints/8/about',
  'metadata of arrays': 'checkpoints/8/state/_METADATA',
  'everything': 'checkpoints/8/*',
}


@pytest.mark.parametrize('part', PARTS.values(), ids=PARTS)
def test_a_step_without_a_part_is_set_aside_and_written_again(run, capsys, part):
  remove(run, part)
  assert same(newest(run), state(4))
  assert 'step 4 is used instead' in capsys.readouterr().err
  for again in range(2):  # the same step may rot twice
    with Checkpoints(run, keep=2) as checkpoints:
      checkpoints.save(8, state(8), {})
    assert same(newest(run), state(8))
    assert capsys.readouterr().err == ''
    if not again:
      remove(run, part)
      newest(run)
      assert 'moved to damaged-8-2' in capsys.readouterr().err


def remove(run: Path, pattern: str) -> None:
  """Removes files and folders."""
  for path in run.glob(pattern):
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()


def test_without_a_whole_step_training_is_refused(run):
  remove(run, 'checkpoints/*/state/d')
  for _ in range(2):
    with pytest.raises(CheckpointError) as error:
      newest(run)
    message = str(error.value)
    assert message.startswith(f'{run}/checkpoints/8 is damaged (')
    assert '\n' not in message
    assert f'delete {run}/checkpoints to train from step 0 again' in message
    assert f'--config.init.checkpoint={run}' in message
    assert sorted(path.name for path in (run / 'checkpoints').iterdir()) == ['4', '8']


def test_only_damaged_steps_are_no_fresh_start(run):
  shutil.rmtree(run / 'checkpoints' / '4')
  (run / 'checkpoints' / '8').rename(run / 'checkpoints' / 'damaged-8')
  with pytest.raises(CheckpointError, match='has only damaged steps'):
    newest(run)


def test_another_model_is_no_damage(run):
  with Checkpoints(run, keep=2) as checkpoints:
    with pytest.raises(CheckpointError, match='is not in this model'):
      checkpoints.restore_newest(abstract(state(0).replace(params={})))
    assert checkpoints.steps == [4, 8]


def test_a_damaged_best_is_said_and_chosen_anew(run, capsys):
  remove(run, 'best/8/params/d')
  with Checkpoints(run, read_only=True) as checkpoints:
    with pytest.raises(CheckpointError) as error:
      checkpoints.read_params('best')
    assert str(error.value).startswith(f'{run}/best/8 is damaged (')
    assert str(error.value).endswith(f': use --step=last, the newest state, {run}/checkpoints/8')
    assert same(checkpoints.read_params('last')[0], state(8).params)
  with Checkpoints(run) as checkpoints:
    checkpoints.check_best(abstract(state(0).params))
    err = capsys.readouterr().err
    assert err.startswith(f'vivit: warning: {run}/best/8 is damaged (')
    assert err.endswith('chooses new best parameters; the damaged step was moved to damaged-8\n')
    assert checkpoints.best_step is None
    assert checkpoints.save_best(12, state(12).params, 0.1)
  with Checkpoints(run) as checkpoints:
    checkpoints.check_best(abstract(state(0).params))
    assert checkpoints.best_step == 12
  remove(run, 'best/12/about')  # while a run goes on
  with Checkpoints(run) as checkpoints:
    assert checkpoints.save_best(16, state(16).params, 0.05)
    assert 'best/12 is damaged (' in capsys.readouterr().err
  with Checkpoints(run, read_only=True) as checkpoints:
    assert same(checkpoints.read_params('best')[0], state(16).params)


def test_a_rotten_step_is_named_with_the_others(run):
  remove(run, 'checkpoints/8/state/d')
  with (
    Checkpoints(run, read_only=True) as checkpoints,
    pytest.raises(CheckpointError, match=r'8 is damaged \(.*give another --step, one of 4'),
  ):
    checkpoints.read_params('last')


SAVES = """
import sys, time, numpy as np, jax, jax.numpy as jnp
from pathlib import Path
from vivit_jax.checkpoint.manager import Checkpoints

def state(step):
  bits = np.random.default_rng(step).integers(0, 2**32, 12_000_000, np.uint32)
  return {'step': jnp.asarray(step, jnp.int32), 'bits': jnp.asarray(bits)}
device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
abstract = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state(0))
with Checkpoints(Path(sys.argv[1]), keep=2) as checkpoints:
  found = checkpoints.restore_newest(abstract)
  start = 0 if found is None else int(found['step'])
  assert found is None or np.array_equal(found['bits'], state(start)['bits'])
  leftovers = list(Path(sys.argv[1]).glob('*/*tmp*'))
  assert not leftovers, leftovers
  print(start, flush=True)
  for step in range(start + 1, 1000):
    tree = state(step)
    print('save', step, flush=True)
    checkpoints.save(step, tree, {})
    checkpoints.wait_for(step)
    print('saved', step, flush=True)
"""


@pytest.mark.parametrize('kills', [3, pytest.param(8, marks=pytest.mark.faults)])
def test_a_save_killed_at_any_moment_leaves_the_last_good_step(tmp_path, kills):
  last, inside = 0, 0
  for kill in range(kills):
    with subprocess.Popen(
      [sys.executable, '-c', SAVES, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
      try:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == last
        next_saved(process.stdout)  # compiles
        last, seconds = next_saved(process.stdout)
        assert process.stdout.readline() == f'save {last + 1}\n'
        # Over the length of a save, each time in another part of it.
        time.sleep(seconds * (kill + random.random()) / kills)
      finally:
        process.kill()
      # What was printed before the kill was on disk.
      rest = process.stdout.read().splitlines()
    folder = tmp_path / 'checkpoints'
    inside += any('tmp' in path.name for path in folder.iterdir())
    done = [int(line.split()[1]) for line in rest if line.startswith('saved ')]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
      last = checkpoints.steps[-1]
    assert last >= max(done, default=0)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert leftovers(folder) == []
    params = {'step': jnp.zeros((), jnp.int32), 'bits': jnp.zeros(12_000_000, jnp.uint32)}
    restored = checkpoints.restore_newest(abstract(params))
  bits = np.random.default_rng(last).integers(0, 2**32, 12_000_000, np.uint32)
  assert same(restored, {'step': np.int32(last), 'bits': bits})
  print(f'{inside} of {kills} kills left temporary files')
  assert inside or kills < 8  # three moments may all miss


def next_saved(lines: TextIO) -> tuple[int, float]:
  """Reads on until a step was saved; returns it and the seconds that this took."""
  assert lines.readline().startswith('save ')
  began = time.monotonic()
  line = lines.readline()
  return int(line.removeprefix('saved ')), time.monotonic() - began


LEAVES = """
import os, signal, sys, time, jax.numpy as jnp
from pathlib import Path
from vivit_jax.checkpoint.manager import Checkpoints
with Checkpoints(Path(sys.argv[1])) as checkpoints:
  checkpoints.save(1, {'a': jnp.ones(12_000_000)}, {})
  checkpoints.save_best(1, {'a': jnp.ones(12_000_000)}, 0.5)
  print('saving', flush=True)
  exec(sys.argv[2])
"""
WAYS = {
  'sys.exit': ('sys.exit(3)', 3, 0),
  'exception': ("raise RuntimeError('a bug')", 1, 0),
  'interrupted twice': ('time.sleep(60)', -signal.SIGINT, 2),
}


@pytest.mark.parametrize(('way', 'code', 'interrupts'), WAYS.values(), ids=WAYS)
def test_however_a_process_leaves_after_save_the_save_is_on_disk(tmp_path, way, code, interrupts):
  with subprocess.Popen(
    [sys.executable, '-c', LEAVES, str(tmp_path), way],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
  ) as process:  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == 'saving\n'
    for _ in range(interrupts):
      process.send_signal(signal.SIGINT)
      time.sleep(0.02)
    _, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert (checkpoints.steps, checkpoints.best_step) == ([1], 1)
    assert (checkpoints.read_params('best')[0]['a'] == 1).all()


def test_a_save_outside_of_the_block_is_refused(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(AssertionError, match='outside of `with`'):
    checkpoints.save(1, state(1), {})
  with checkpoints:
    pass


@pytest.mark.faults
def test_a_run_resumes_from_the_step_before_with_the_same_bits(tmp_path):
  arguments = settings(train__steps=12, train__evaluate_every=4)
  first = command('train', *arguments, f'--workdir={tmp_path}')
  assert first.returncode == 0, first.stderr
  config = tiny(train__steps=12, train__evaluate_every=4)
  expected, rows = saved_state(config, tmp_path), (tmp_path / 'metrics.jsonl').read_text()
  (best,) = (tmp_path / 'best').iterdir()
  for file in [*(tmp_path / 'checkpoints/12/state/d').iterdir(), *(best / 'params/d').iterdir()]:
    content = bytearray(file.read_bytes())
    for place in range(len(content) // 2, len(content), 512):
      content[place] ^= 8
    file.write_bytes(content)
  for step, remedy in (
    ('best', 'use --step=last, the newest state, '),
    ('last', 'another --step, one of 8'),
  ):
    refused = command('evaluate', f'--workdir={tmp_path}', f'--step={step}')
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert ' is damaged (' in line
    assert remedy in line
  again = command('train', *arguments, f'--workdir={tmp_path}')
  assert again.returncode == 0, again.stderr
  warnings = [line for line in again.stderr.splitlines() if 'damaged' in line]
  assert len(warnings) == 2, again.stderr
  assert warnings[0].startswith(f'vivit: warning: {best} is damaged (')
  assert warnings[1].startswith(f'vivit: warning: {tmp_path}/checkpoints/12 is damaged (')
  assert warnings[1].endswith('step 8 is used instead; the damaged step was moved to damaged-12')
  chex.assert_trees_all_equal(saved_state(config, tmp_path), expected)
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == len(rows.splitlines())
  names = sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())
  assert names == ['12', '8', 'damaged-12']


@pytest.mark.faults
def test_a_workdir_named_like_a_glob_pattern_works(tmp_path):
  workdir = tmp_path / 'runs' / 'lr[0.1]'
  arguments = settings(train__steps=12, train__evaluate_every=4)
  with start('train', *arguments, f'--workdir={workdir}') as process:
    while not (workdir / 'checkpoints' / '4').exists():
      assert process.poll() is None
      time.sleep(0.01)
    process.kill()
  again = command('train', *arguments, f'--workdir={workdir}')
  assert again.returncode == 0, again.stderr
  assert 'damaged' not in again.stderr
  straight = command('train', *arguments, f'--workdir={tmp_path}/straight')
  assert straight.returncode == 0, straight.stderr
  config = tiny(train__steps=12, train__evaluate_every=4)
  chex.assert_trees_all_equal(
    saved_state(config, workdir), saved_state(config, tmp_path / 'straight')
  )
  video = open_split(config, 'test').videos[0].path
  for arguments in (
    ('evaluate', f'--workdir={workdir}', '--views=1x1'),
    ('predict', f'--checkpoint={workdir}', '--views=1x1', video),
    ('convert', str(workdir), f'{tmp_path}/x[1]', '--to=orbax'),
    ('predict', f'--checkpoint={tmp_path}/x[1]', '--views=1x1', video),
  ):
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
