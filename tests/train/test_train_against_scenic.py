# SPDX-License-Identifier: Apache-2.0
"""Twenty training steps equal Scenic's: loss, gradient norm, learning rate and parameters."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from support.scenic_names import our_params
from support.scenic_steps import CASES, LOSS, NORM, PARAMETERS, REFERENCE
from vivit_jax.config.schema import Config, Mix, Task, Train
from vivit_jax.train.optimizer import learning_rate, make_optimizer
from vivit_jax.train.state import TrainState
from vivit_jax.train.step import train_step
from vivit_jax.weights.pretrained import load_pretrained

STEPS = 20
TRAIN = Train(
  batch_size=6, steps=STEPS, epochs=20.0, warmup_epochs=5.0, learning_rate=0.5, label_smoothing=0.2
)


def blended(weight, _settings, _key, video, targets):
  """Mixup with a stored weight, in place of `mix`, which draws its own."""
  video = video.astype(jnp.float32)
  return tuple(weight * x + (1 - weight) * x[::-1] for x in (video, targets))


def run(name, case):
  """Returns the final parameters and the metrics of each step, with the step of training runs."""
  two_heads = name.endswith('two_heads')
  start = 'factorised_encoder_cls' if two_heads else name
  weights = load_pretrained(REFERENCE / 'scenic' / f'{start}.msgpack', frames=8)
  heads = Task(heads=('noun', 'verb'), classes=(4, 3))
  task = heads if two_heads else Task(classes=(weights.model.classes,))
  config = Config(task=task, train=TRAIN, mix=Mix(mixup=0.3, group_size=6))
  optimizer = make_optimizer(TRAIN, STEPS)
  state = TrainState(jnp.int32(0), weights.params, optimizer.init(weights.params), None)

  @jax.jit
  def step(state, batch, weight):
    with mock.patch('vivit_jax.train.step.mix', lambda *args: blended(weight, *args)):
      return train_step(state, batch, config=config, model=weights.model, optimizer=optimizer)

  history = []
  for rows, weight in zip(case['rows'], case['mixup'], strict=True):
    batch = {'video': case['bank'][rows], 'label': case['labels'][rows].astype(np.int32)}
    state, metrics = step(state, batch, weight)
    history.append({name: float(value) for name, value in metrics.items()})
  return state.params, history


def test_there_are_five_cases():
  assert len(CASES) == 5


@pytest.mark.parametrize('name', CASES)
def test_twenty_steps_equal_scenics(name):
  with np.load(REFERENCE / 'scenic_steps' / f'{name}.npz') as file:
    case = dict(file)
  params, history = run(name, case)
  final = {tuple(key.split('/')[1:]): case[key] for key in case if key.startswith('final/')}
  expected = our_params(unflatten_dict(final))

  def largest(ours, theirs):
    return float(np.max(np.abs(np.asarray(ours) - theirs)))

  loss = largest([metrics['loss'] for metrics in history], case['loss'])
  norm = largest([metrics['gradient_norm'] for metrics in history], case['gradient_norm'])
  assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)
  leaf = max(jax.tree.leaves(jax.tree.map(largest, params, expected)))
  clipped = sum(case['gradient_norm'] > TRAIN.grad_clip_norm)
  print(f'{name}: loss {loss:.1e}, norm {norm:.1e}, parameters {leaf:.1e}, {clipped} clipped')
  assert loss <= LOSS
  assert norm <= NORM
  assert leaf <= PARAMETERS


@pytest.mark.parametrize('name', CASES)
def test_learning_rates_equal_scenics(name):
  with np.load(REFERENCE / 'scenic_steps' / f'{name}.npz') as case:
    rates = [float(learning_rate(TRAIN, STEPS)(step)) for step in range(STEPS)]
    np.testing.assert_allclose(rates, case['learning_rate'], atol=1e-7)
