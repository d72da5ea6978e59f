# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: which are kept, when they are on disk, and which are rejected."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from support.checkpoints import abstract, leftovers
from vivit_jax.checkpoint import store
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.store import Store
from vivit_jax.errors import CheckpointError, DamagedError, SaveError
from vivit_jax.files import write_json
from vivit_jax.train.state import TrainState


def state(step: int, width: int = 4, dtype=jnp.float32) -> TrainState:
  """Returns a small state that says which step it is of."""
  params = {'layer': {'kernel': jnp.full((width, 3), step, dtype), 'bias': jnp.zeros(3)}}
  return TrainState(jnp.asarray(step, jnp.int32), params, (jnp.full((), step, jnp.float32),))


def test_the_newest_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3, 4):
      checkpoints.save(step, state(step), {'data': 'x'})
    checkpoints.save(4, state(99), {})  # there already
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.steps == [3, 4]
    for step in (3, 4):
      restored = checkpoints.restore(step, abstract(state(0)))
      for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state(step)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_best_is_kept_and_nan_is_the_worst(tmp_path):
  nan = float('nan')
  scores = {1: nan, 2: 0.5, 3: 0.7, 4: nan, 5: 0.7, 6: 0.1}
  written = []
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    for step, score in scores.items():
      checkpoints.save(step, state(step), {})
      if checkpoints.save_best(step, state(step).params, score):
        written.append(step)
  assert written == [1, 2, 3, 5]  # the last of two that are as good
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert (checkpoints.steps, checkpoints.best_step) == ([6], 5)
    assert checkpoints.best_score() == (0.7, math.inf)
    params, step, _ = checkpoints.read_params('best')
    assert step == params['layer']['kernel'][0, 0] == 5
    params, step, _ = checkpoints.read_params('last')
    assert step == params['layer']['kernel'][0, 0] == 6


def test_ties_go_to_the_lower_loss_then_the_later_step(tmp_path):
  nan = float('nan')
  losses = {1: nan, 2: 2.0, 3: 1.0, 4: 1.5, 5: nan, 6: 1.0, 7: math.inf}
  written = []
  with Checkpoints(tmp_path) as checkpoints:
    for step, loss in losses.items():
      if checkpoints.save_best(step, state(step).params, 0.5, loss):
        written.append(step)
    assert written == [1, 2, 3, 6]
    assert checkpoints.best_score() == (0.5, 1.0)
    assert not checkpoints.save_best(8, state(8).params, 0.4, 0.1)
    assert checkpoints.save_best(9, state(9).params, 0.6, 9.0)


def test_a_best_of_an_earlier_version_has_a_score_alone(tmp_path):
  best = Store(tmp_path / 'best', 'params', 1, read_only=False)
  best.save(4, state(4).params, {'score': '0.5'})
  best.close()
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.best_score() == (0.5, math.inf)
    assert not checkpoints.save_best(8, state(8).params, 0.4, 1.0)
    assert checkpoints.save_best(8, state(8).params, 0.5, 1.0)


def test_without_a_score_the_newest_is_the_best(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(CheckpointError, match='has no checkpoint: run `vivit train` first'):
      checkpoints.read_params('best')
    checkpoints.save(8, state(8), {})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.read_params('best')[1] == 8


def test_leaving_the_block_at_once_leaves_the_save_on_disk(tmp_path):
  # Without closing, Orbax loses it with exit code 0; an error on the way out changes nothing.
  with contextlib.suppress(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1, width=400_000), {})
    checkpoints.save_best(1, state(1, width=400_000).params, 0.5)
    raise ZeroDivisionError
  with Checkpoints(tmp_path) as checkpoints:
    assert (checkpoints.steps, checkpoints.best_step) == ([1], 1)
    assert checkpoints.restore(1, abstract(state(1, width=400_000))).step == 1


def test_saves_are_whole_while_later_steps_reuse_their_memory(tmp_path):
  # As the train step does: its input is donated while the save of it is under way.
  step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
  tree = {'large': jnp.zeros(3_000_000), 'small': jnp.zeros(3)}
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    for number in range(1, 41):
      tree = step(tree)
      if number % 8 == 0:
        checkpoints.save(number, tree, {})
  with Checkpoints(tmp_path, keep=9) as checkpoints:
    assert checkpoints.steps == [8, 16, 24, 32, 40]
    for number in checkpoints.steps:
      for leaf in jax.tree.leaves(checkpoints.restore(number, abstract(tree))):
        assert (np.asarray(leaf) == number).all()


@struct.dataclass
class EarlierState:
  """The training state of version 0.1, field for field."""

  step: Any
  params: Any
  opt_state: Any
  average: Any = ()


@pytest.mark.parametrize('ema', [True, False])
def test_the_average_of_an_earlier_version_has_its_new_name(tmp_path, ema):
  params = {'kernel': jnp.arange(6.0).reshape(2, 3)}
  average = {'kernel': jnp.full((2, 3), 0.5)} if ema else ()
  opt_state = optax.adamw(1e-3).init(params)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, EarlierState(jnp.int32(3), params, opt_state, average), {})
  wanted = TrainState(jnp.int32(3), params, opt_state, average)
  with Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore_newest(abstract(wanted))
    chex.assert_trees_all_equal(restored, wanted)
    read, _, _ = checkpoints.read_params('last')
    chex.assert_trees_all_equal(read, wanted.eval_params)
    checkpoints.save(4, restored, {})  # under the new name
  with Checkpoints(tmp_path) as checkpoints:
    chex.assert_trees_all_equal(checkpoints.restore(4, abstract(wanted)), wanted)
    read, _, _ = checkpoints.read_params('last')
    chex.assert_trees_all_equal(read, wanted.eval_params)


@pytest.mark.parametrize(
  ('wanted', 'message'),
  [
    (state(0, width=5), 'params/layer/kernel holds float32[4, 3], but this model needs '
                        'float32[5, 3]'),
    (state(0, dtype=jnp.int32), 'params/layer/kernel holds float32[4, 3], but this model needs '
                                'int32[4, 3]'),
    (state(0, dtype=jnp.bfloat16), 'params/layer/kernel holds float32[4, 3], but this model needs '
                                   'bfloat16[4, 3]'),
    (state(0).replace(params={**state(0).params, 'head': jnp.zeros(2)}),
     'params/head holds nothing, but this model needs float32[2]'),
    (state(0).replace(params={}), 'is not in this model'),
  ],
)  # fmt: skip
def test_another_model_is_refused_by_the_name_of_the_array(tmp_path, wanted, message):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, state(1), {})
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(CheckpointError) as error:
      checkpoints.restore(1, abstract(wanted))
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_missing_step_lists_those_that_are_there(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (10, 20):
      checkpoints.save(step, state(step), {})
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    for read in (lambda: checkpoints.restore(7, abstract(state(0))),
                 lambda: checkpoints.read_params(7)):  # fmt: skip
      with pytest.raises(CheckpointError, match='7 does not exist: the steps there are 10, 20'):
        read()


SAVES = """
import sys, jax.numpy as jnp
from pathlib import Path
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.store import Store
with Checkpoints(Path(sys.argv[1]), keep=2) as checkpoints:
  for step in range(1, 1000):
    checkpoints.save(step, {'array': jnp.full((1_000_000,), step, jnp.int32)}, {})
    print(step, flush=True)
"""


def test_a_killed_save_leaves_whole_steps_only(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', SAVES, str(tmp_path)],
    cwd=Path(__file__).parent.parent.parent,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
  )
  folder = tmp_path / 'checkpoints'
  deadline = time.monotonic() + 300
  with process:
    try:
      while not (leftovers(folder) and (folder / '3').exists()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    finally:
      process.send_signal(signal.SIGKILL)
  expected = {'array': jnp.zeros(1_000_000, jnp.int32)}
  before = leftovers(folder)
  with Checkpoints(tmp_path, read_only=True) as checkpoints:  # as one who only looks
    newest = checkpoints.steps[-1]
  assert leftovers(folder) == before
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.steps[-1] == newest
    assert leftovers(folder) == []
    array = checkpoints.restore(newest, abstract(expected))['array']
    assert (np.asarray(array) == newest).all()


def test_a_save_killed_before_it_had_content_is_removed_too(tmp_path):
  for folder in ('checkpoints', 'best'):
    (tmp_path / folder / '4.orbax-checkpoint-tmp').mkdir(parents=True)
  with Checkpoints(tmp_path) as checkpoints:
    assert leftovers(tmp_path / 'checkpoints') == leftovers(tmp_path / 'best') == []
    checkpoints.save(4, state(4), {})
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(4, abstract(state(0))).step == 4


# Tensorstore's threads report to an event loop that Orbax has closed by then.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_damage_is_one_line_that_names_the_step(tmp_path):
  with Checkpoints(tmp_path / 'whole') as checkpoints:
    checkpoints.save(1, state(1), {})
  item = Path('checkpoints', '1', 'state')
  refused = []
  for file in sorted((tmp_path / 'whole' / item).iterdir()):
    copy = tmp_path / file.name
    shutil.copytree(tmp_path / 'whole', copy)
    if file.is_dir():
      shutil.rmtree(copy / item / file.name)
    else:
      (copy / item / file.name).unlink()
    message = refusal(copy)
    if message is not None:
      assert f'{copy}/checkpoints/1 is damaged (' in message
      assert '\n' not in message
      refused.append(file.name)
  assert {'d', 'manifest.ocdbt'} <= set(refused)


def refusal(workdir: Path) -> str | None:
  """Returns why step 1 cannot be restored; where it can, it must be right."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    try:
      restored = checkpoints.restore(1, abstract(state(1)))
    except CheckpointError as error:
      return str(error)
  for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state(1)), strict=True):
    np.testing.assert_array_equal(one, other)
  return None


@pytest.mark.parametrize('name', ['lr[0.1]', 'all*', 'which?', 'below/[x]/run'])
def test_a_path_may_have_characters_that_are_patterns_elsewhere(tmp_path, name):
  workdir = tmp_path / name
  for steps in ((1, 2), (3, 4)):  # and go on
    with Checkpoints(workdir, keep=2) as checkpoints:
      for step in steps:
        checkpoints.save(step, state(step), {})
        checkpoints.save_best(step, state(step).params, step / 10)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert (checkpoints.steps, checkpoints.best_step) == ([3, 4], 4)
    assert checkpoints.restore_newest(abstract(state(0))).step == 4
    assert checkpoints.read_params('best')[0]['layer']['kernel'][0, 0] == 4
  workdir.rename(tmp_path / 'moved')
  with Checkpoints(tmp_path / 'moved', read_only=True) as checkpoints:
    assert checkpoints.restore(3, abstract(state(0))).step == 3
  descriptors = [os.readlink(link) for link in Path('/proc/self/fd').iterdir() if link.exists()]
  assert not [place for place in descriptors if str(tmp_path) in place]


def test_a_partly_written_state_does_not_count_as_saved(tmp_path, monkeypatch):
  # As it does in a folder of such a name, were it given that path.
  monkeypatch.setattr(store, 'literal_path', lambda path, make: (path, lambda: None))
  with Checkpoints(tmp_path / 'lr[0.1]') as checkpoints:
    checkpoints.save(1, state(1), {})
    with pytest.raises(SaveError) as error:
      checkpoints.wait_for(1)
  assert str(error.value) == (
    f'{tmp_path}/lr[0.1]/checkpoints/1 was not saved (state/manifest.ocdbt was not written); the '
    'same command continues from the beginning'
  )
  assert not (tmp_path / 'lr[0.1]' / 'checkpoints' / '1').exists()


def test_a_step_copied_over_another_is_damaged(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (4, 8):
      checkpoints.save(step, state(step), {})
  shutil.rmtree(tmp_path / 'checkpoints' / '8')
  shutil.copytree(tmp_path / 'checkpoints' / '4', tmp_path / 'checkpoints' / '8')
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for read in (lambda: checkpoints.read_params(8), lambda: checkpoints.about(8),
                 lambda: checkpoints.restore(8, abstract(state(0)))):  # fmt: skip
      with pytest.raises(DamagedError, match=r'8 is damaged \(.*: it was saved as step 4\)'):
        read()
    assert checkpoints.restore_newest(abstract(state(0))).step == 4


@pytest.mark.parametrize(
  'file', ['state/manifest.ocdbt', 'state/_METADATA', 'about/metadata', '_CHECKPOINT_METADATA']
)
def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(tmp_path, file):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(4, state(4), {})
  pipe = tmp_path / 'checkpoints' / '4' / file
  pipe.unlink()
  os.mkfifo(pipe)
  with (
    pytest.raises(DamagedError, match=rf'{pipe.name} in .*is not a regular file\)'),
    Checkpoints(tmp_path, read_only=True) as checkpoints,
  ):
    checkpoints.read_params('last')


@pytest.mark.parametrize(
  'content', [b'[' * 100_000, b'[]', b'{"metrics": 5}', b'{"commit_timestamp_nsecs": "x"}']
)
def test_odd_metadata_of_orbax_is_one_line_that_says_what_to_do(tmp_path, content):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(4, state(4), {})
  metadata = tmp_path / 'checkpoints' / '4' / '_CHECKPOINT_METADATA'
  metadata.write_bytes(content)
  with pytest.raises(DamagedError) as error:
    Checkpoints(tmp_path, read_only=True)
  message = str(error.value)
  assert message.startswith(f'{tmp_path}/checkpoints/*/_CHECKPOINT_METADATA cannot be read (')
  assert message.endswith('): delete the damaged file, which is not needed')
  assert '\n' not in message
  metadata.unlink()
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert checkpoints.restore(4, abstract(state(0))).step == 4


def test_a_reader_takes_the_step_that_replaced_the_one_it_saw(tmp_path):
  def write(step):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
      checkpoints.save(step, state(step), {})
      checkpoints.save_best(step, state(step).params, float(step))

  write(4)
  with Checkpoints(tmp_path, read_only=True) as reader:
    assert (reader.steps, reader.best_step) == ([4], 4)
    write(8)
    with pytest.raises(CheckpointError, match=r'4 was removed while it was read: .* are 8'):
      reader.read_params(4)
  for wanted in ('last', 'best'):
    write(step := {'last': 12, 'best': 16}[wanted])
    with Checkpoints(tmp_path, read_only=True) as reader:
      write(step + 1)
      params, found, about = reader.read_params(wanted)
      assert found == about['step'] == params['layer']['kernel'][0, 0] == step + 1


def test_looking_at_a_run_without_checkpoints_makes_no_folders(tmp_path):
  with Checkpoints(tmp_path, read_only=True) as checkpoints:
    assert (checkpoints.steps, checkpoints.best_step) == ([], None)
  assert list(tmp_path.iterdir()) == []


def test_json_files_are_whole_or_not_there(tmp_path):
  file = tmp_path / 'folder' / 'a.json'
  write_json(file, {'b': 1})
  assert file.read_text() == '{\n "b": 1\n}\n'
  with pytest.raises(TypeError):
    write_json(file, {'b': object()})
  assert [path.name for path in file.parent.iterdir()] == ['a.json']
  assert file.read_text() == '{\n "b": 1\n}\n'
