# SPDX-License-Identifier: Apache-2.0
"""Really full disks: detection, messages, and the files that remain."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.runs import ROOT, environment, settings

MOUNT = 'mount -t tmpfs -o size={size} tmpfs "$0" && '


def on_small_disk(folder: Path, size: str, script: str, *arguments: str) -> list[str]:
  """Runs a shell script, in which `$0` is a file system of that size of its own.

  Returns:
    What it printed, both streams together, as lines.
  """
  folder.mkdir()
  for own in (['unshare', '-rm'], ['unshare', '-m']):  # as a user, or as root
    probe = [*own, 'sh', '-c', f'{MOUNT.format(size=size)} true', str(folder)]
    refused = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
    if not refused:
      break
  else:
    pytest.skip(f'this machine mounts no file system of a given size: {refused.strip()}')
  done = subprocess.run(
    [*own, 'sh', '-c', MOUNT.format(size=size) + script, str(folder), *arguments],
    cwd=ROOT,
    env=environment(PYTHONPATH=str(ROOT)),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
    check=False,
  )
  return done.stdout.splitlines()


def run_program(folder: Path, size: str, program: str) -> list[str]:
  """Runs Python after the following lines on a small disk; it must end by itself."""
  lines = on_small_disk(folder, size, '"$1" -c "$2" "$0"', sys.executable, PREPARED + program)
  assert lines[-1] == 'ended', '\n'.join(lines)
  return lines[:-1]


PREPARED = """
import os, shutil, sys, threading
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.cli.main import _quieten_orbax
from vivit_jax.errors import SaveError

_quieten_orbax()
disk = Path(sys.argv[1])
MB = 1 << 20
def state(step, size=MB):
  bits = np.random.default_rng(step).integers(0, 2**32, size // 4, np.uint32)
  return {'step': jnp.asarray(step, jnp.int32), 'bits': jnp.asarray(bits)}
def abstract(tree):
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)
def is_state(tree, step, size=MB):
  wanted = state(step, size)
  return all(np.array_equal(tree[name], wanted[name]) for name in wanted)
def leave(free):
  used = shutil.disk_usage(disk).free - free
  if used > 0:
    with (disk / 'ballast').open('ab') as file:
      os.posix_fallocate(file.fileno(), file.tell(), used)
def there():
  return sorted(path.name for path in (disk / 'checkpoints').iterdir())
"""


def test_a_save_that_does_not_fit_is_refused_at_once(tmp_path):
  lines = run_program(tmp_path / 'disk', '20m', """
with Checkpoints(disk, keep=2) as checkpoints:
  checkpoints.save(4, state(4, 8 * MB), {})
  checkpoints.wait_for(4)
  leave(6 * MB)
  try:
    checkpoints.save(8, state(8, 8 * MB), {})
  except SaveError as error:
    print(error)
  print(there())
with Checkpoints(disk, keep=2) as checkpoints:
  assert is_state(checkpoints.restore_newest(abstract(state(0, 8 * MB))), 4, 8 * MB)
print('ended')
""")  # fmt: skip
  assert lines == [
    f'{tmp_path}/disk/checkpoints/8 was not saved (No space left on device): it needs 8,396,804 '
    'bytes and 6,291,456 are free; the same command continues from step 4',
    "['4']",
  ]


def test_a_disk_that_fills_during_a_save_is_noticed(tmp_path):
  lines = run_program(tmp_path / 'disk', '150m', """
size = 48 * MB
def fill():
  while not list((disk / 'checkpoints').glob('8.*')):
    pass
  leave(16 * MB)
with Checkpoints(disk, keep=2, on_disk_full='continue') as checkpoints:
  checkpoints.save(4, state(4, size), {})
  checkpoints.wait_for(4)
  big = state(8, size)
  filler = threading.Thread(target=fill)
  filler.start()
  checkpoints.save(8, big, {})
  filler.join()
  while 8 in checkpoints.steps:
    checkpoints.check()
  print(there())
  (disk / 'ballast').unlink()
  checkpoints.save(12, state(12, size), {})
with Checkpoints(disk, keep=2) as checkpoints:
  print(checkpoints.steps)
  assert is_state(checkpoints.restore_newest(abstract(state(0, size))), 12, size)
  assert is_state(checkpoints.restore(4, abstract(state(0, size))), 4, size)
print('ended')
""")  # fmt: skip
  assert len(lines) == 3, lines
  assert lines[0].startswith(
    f'vivit: warning: {tmp_path}/disk/checkpoints/8 was not saved (No space left on device): it '
    'needs 50,339,844 bytes and '
  )
  assert lines[0].endswith('continues from step 4; training continues without it')
  assert lines[1:] == ["['4']", '[4, 12]']


@pytest.mark.faults
def test_no_partial_step_is_left_wherever_the_disk_fills(tmp_path):
  lines = run_program(tmp_path / 'disk', '4m', """
size = 64 << 10
failed = 0
for spare in range(0, 60):
  shutil.rmtree(disk / 'checkpoints', ignore_errors=True)
  (disk / 'ballast').unlink(missing_ok=True)
  with Checkpoints(disk, keep=2) as checkpoints:
    checkpoints.save(4, state(4, size), {})
  leave(size + 4096 * (spare + 3))
  saved = True
  try:
    with Checkpoints(disk, keep=2) as checkpoints:
      checkpoints.save(8, state(8, size), {})
  except SaveError as error:
    assert error.disk_full, error
    saved = False
  assert there() == ['4', '8'] if saved else ['4'], there()
  failed += not saved
  with Checkpoints(disk, keep=2) as checkpoints:
    newest = checkpoints.restore_newest(abstract(state(0, size)))
  assert is_state(newest, 8 if saved else 4, size), (spare, saved)
print(failed, 60 - failed)
print('ended')
""")  # fmt: skip
  failed, saved = map(int, lines[-1].split())
  assert failed >= 5
  assert saved >= 5
  assert len(lines) == 1, lines


def test_other_files_that_find_no_space_are_named(tmp_path):
  lines = run_program(tmp_path / 'disk', '1m', """
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.files import write_json
from vivit_jax.train.goodput import Goodput
from vivit_jax.train.log import RunLog
from vivit_jax.checkpoint.workdir import lock_workdir

def fails(write):
  try:
    for number in range(3000):
      write(number)
  except OSError as error:
    print(f'{error.filename}: {error.strerror}')
def log(workdir):
  with RunLog(workdir, 0, 9, 8, Goodput()) as log:
    leave(0)
    log.say = lambda line: None
    fails(lambda step: log.validation(step, {'loss': 1.0}))
(disk / 'run').mkdir()
write_json(disk / 'run' / 'config.json', {'old': True})
fails(lambda _: log(disk / 'run'))
fails(lambda _: write_json(disk / 'run' / 'config.json', {'new': 'x' * 9000}))
assert (disk / 'run' / 'config.json').read_text() == '{\\n "old": true\\n}\\n'
print(sorted(path.name for path in (disk / 'run').iterdir()))
failures = Failures(Manifest('train', (), {}, '', False), 1.0, disk / 'run')
fails(lambda number: failures.add([(f'{number}.mp4', 'x' * 99)]))
print('ended')
""")  # fmt: skip
  run = tmp_path / 'disk' / 'run'
  full = 'No space left on device'
  assert lines == [
    f'{run}/metrics.jsonl: {full}',
    f'{run}/tensorboard: {full}',  # on closing
    f'{run}/config.json: {full}',
    "['config.json', 'metrics.jsonl', 'tensorboard']",
    f'{run}/skipped.csv: {full}',
  ]


TRAIN = """
"$@" --workdir="$0/run" 2>&1
echo "exit $?" $(ls "$0/run/checkpoints")
"""
LARGER = 'mount -o remount,size=20m "$0"'


@pytest.mark.faults
def test_a_run_without_space_ends_in_one_line_and_resumes(tmp_path):
  vivit = [sys.executable, '-m', 'vivit_jax', 'train', *settings(train__steps=12)]
  lines = on_small_disk(tmp_path / 'disk', '1100k', f'{TRAIN} {LARGER} {TRAIN}', *vivit)
  first = lines.index('exit 2 4')
  assert lines[first - 1].startswith(
    f'vivit: error: {tmp_path}/disk/run/checkpoints/8 was not saved (No space left on device): it '
  )
  assert lines[first - 1].endswith('the same command continues from step 4')
  assert lines[-1] == 'exit 0 12 8'
  assert not any(
    'Traceback' in line or 'rror:' in line for line in lines if line != lines[first - 1]
  )


@pytest.mark.faults
def test_a_run_may_go_on_without_the_save_that_found_no_space(tmp_path):
  vivit = [sys.executable, '-m', 'vivit_jax', 'train', *settings(train__steps=80)]
  freed = f"""
    "$@" --workdir="$0/run" > "$0.log" 2>&1 &
    until grep -q 'was not saved' "$0.log"; do kill -0 $! || break; sleep 0.02; done
    {LARGER}; wait $!
    code=$?; cat "$0.log"; echo "exit $code" $(ls "$0/run/checkpoints")"""
  lines = on_small_disk(
    tmp_path / 'disk', '1100k', freed, *vivit, '--config.faults.on_disk_full=continue'
  )
  # A busy machine may be warned of waiting for data too.
  warnings = [line for line in lines if 'was not saved' in line]
  assert '/checkpoints/8 was not saved (No space left on device): it needs ' in warnings[0]
  assert warnings[0].startswith('vivit: warning: ')
  assert warnings[0].endswith('training continues without it')
  assert lines[-1] == 'exit 0 76 80'


@pytest.mark.faults
def test_a_run_that_cannot_write_its_snapshot_names_it(tmp_path):
  vivit = [sys.executable, '-m', 'vivit_jax', 'train', *settings()]
  lines = on_small_disk(tmp_path / 'disk', '4k', TRAIN, *vivit)
  assert lines[lines.index('exit 2') - 1] == (
    f'vivit: error: {tmp_path}/disk/run/config.json: No space left on device'
  )
