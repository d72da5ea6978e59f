# SPDX-License-Identifier: Apache-2.0
"""Non-finite values: a step skips its update and only advances the step count."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.steps import MULTI, changed, compiled, make_batch
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch, shard_state
from vivit_jax.errors import TrainingError
from vivit_jax.model.vivit import build
from vivit_jax.train.divergence import all_finite, check_finite
from vivit_jax.train.metrics import MetricsBuffer
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state


@pytest.mark.parametrize(
  'how',
  [
    {'optimizer': 'adamw', 'ema_decay': 0.9},
    pytest.param({'grad_clip_groups': 4}, marks=pytest.mark.faults),
    pytest.param({'grad_accum_steps': 2}, marks=pytest.mark.faults),
  ],
  ids=['whole', 'groups', 'parts'],
)
def test_a_poisoned_batch_changes_nothing_but_the_step(how, rng):
  config = changed(task=MULTI, train={'learning_rate': 0.01, **how})
  mesh = make_mesh(config, jax.devices()[:1])
  step = compiled(config, 1)
  good, bad = make_batch(config, rng), make_batch(config, rng)
  bad['label'][5, 1] = np.inf
  first = init_state(config, build(config), make_optimizer(config.train, 20))
  states, skipped = [shard_state(mesh, first)], []
  for batch in (good, bad, good):
    state, metrics = step(jax.tree.map(jnp.copy, states[-1]), shard_batch(mesh, batch))
    states.append(state)
    skipped.append(float(metrics['skipped_updates']))
  assert skipped == [0, 1, 0]
  assert [int(state.step) for state in states] == [0, 1, 2, 3]
  for name in ('params', 'opt_state', 'ema_params'):
    chex.assert_trees_all_equal(getattr(states[1], name), getattr(states[2], name))
  changes = [
    [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)]
    for pair in ((states[0].params, states[1].params), (states[2].params, states[3].params))
  ]
  assert any(changes[0])
  assert any(changes[1])
  assert all_finite(states[3])


def test_nothing_that_is_not_finite_is_saved():
  state = {'a': jnp.ones(3), 'step': jnp.int32(7)}
  check_finite(state, 7, [])
  for value, saved, left in (
    (np.nan, [], 'there is no checkpoint yet'),
    (np.inf, [2, 5], 'step 5'),
  ):
    with pytest.raises(TrainingError) as error:
      check_finite({**state, 'b': jnp.array([0.0, value])}, 7, saved)
    assert str(error.value).startswith('parameters or optimizer state after step 7 are not finite')
    assert left in str(error.value)


def metrics(loss, skipped):
  return {'loss': jnp.float32(loss), 'skipped_updates': jnp.float32(skipped)}


def test_skipped_steps_are_counted_and_left_out_of_the_mean():
  buffer = MetricsBuffer()
  for step, loss in enumerate((1.0, np.nan, 4.0, np.nan, np.nan), 1):
    buffer.add(step, metrics(loss, np.isnan(loss)))
  assert buffer.consecutive_skips == [4]  # the last one has not been looked at
  assert buffer.last_step_skipped()
  assert buffer.consecutive_skips == [4, 5]
  assert buffer.take_mean(5) == {'loss': 2.5, 'skipped_updates': 3.0}
  buffer.add(6, metrics(np.nan, 1))
  assert buffer.take_mean(6)['skipped_updates'] == 1.0  # and no loss to speak of
  assert buffer.consecutive_skips == [4, 5, 6]
  buffer.add(7, metrics(0.5, 0))
  assert not buffer.last_step_skipped()
  assert buffer.consecutive_skips == []


def test_a_buffer_goes_on_where_it_was_saved():
  losses = [np.float32(x) for x in (0.1, 0.7, 1 / 3)]
  whole, part = MetricsBuffer(), MetricsBuffer()
  for step, loss in enumerate(losses, 1):
    whole.add(step, metrics(loss, 0))
  for step, loss in enumerate(losses[:2], 1):
    part.add(step, metrics(loss, 0))
  resumed = MetricsBuffer(2, part.rows())
  resumed.add(3, metrics(losses[2], 0))
  assert resumed.take_mean(3) == whole.take_mean(3)


class Running:
  """A metric of a step that has not finished: to read it would wait."""

  def copy_to_host_async(self):
    return None  # begins as soon as the step has finished, and waits for nothing

  def item(self):
    raise AssertionError('waits for the step that runs')

  __float__ = __array__ = item


def test_the_mean_of_steps_waits_for_none_that_runs():
  buffer = MetricsBuffer()
  buffer.add(1, metrics(3.0, 0))
  buffer.add(2, {'loss': Running(), 'skipped_updates': Running()})
  assert buffer.take_mean(1) == {'loss': 3.0, 'skipped_updates': 0.0}
  assert buffer.take_mean(1) == {}
  with pytest.raises(AssertionError, match='waits'):
    buffer.rows()
