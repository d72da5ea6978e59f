# SPDX-License-Identifier: Apache-2.0
"""A first check before a long run: whether the model can learn one batch by heart."""

import contextlib
import dataclasses
import sys

from tqdm import tqdm

from vivit_jax.config import Config
from vivit_jax.data.dataset import open_split, with_classes
from vivit_jax.data.pipeline import train_batches
from vivit_jax.model.vivit import build
from vivit_jax.pretrained import initialise_params
from vivit_jax.sharding import host_rows, make_mesh, put_batch, put_state
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state, start_from
from vivit_jax.train.step import compile_step

STEPS = 100
LEARNT = 0.9  # of the clips


def overfit_one_batch(config: Config) -> bool:
  """Trains on the first batch alone, regularisers off, and says what the loss did.

  A model that cannot learn one batch by heart has a wrong learning rate, wrong labels or a fault;
  one that can may still fail on the whole data, but for other reasons. Nothing is written.

  Returns:
    Whether it got nearly all clips right.
  """
  config = _plain(with_classes(config))
  mesh = make_mesh(config)
  data = open_split(config, 'train')
  rows = host_rows(mesh, config.train.batch_size)
  stream = train_batches(data, config, start_step=0, stop_step=1, rows=rows)
  with contextlib.closing(stream) as batches:
    first = next(batches)
    batch = put_batch(mesh, {name: first[name] for name in ('video', 'label')})
  model, optimizer = build(config), make_optimizer(config.train, STEPS)
  state = init_state(config, model, optimizer)
  if config.init.checkpoint is not None:
    state = start_from(config, state, initialise_params(config, state.params)[0])
  state = put_state(mesh, state)
  step = compile_step(config, model, optimizer, mesh)
  history = []
  for _ in tqdm(range(STEPS), 'overfit', unit='step', disable=not sys.stderr.isatty()):
    state, metrics = step(state, batch)
    history.append({name: float(value) for name, value in metrics.items()})
  before, after = history[0], history[-1]
  score = 'accuracy' if config.task.kind == 'multi_label' else 'top1'
  learnt = after[score] >= LEARNT
  verdict = 'the model can learn' if learnt else 'the model did NOT learn one batch by heart'
  print(
    f'one batch of {config.train.batch_size} clips, {STEPS} steps: loss {before["loss"]:.3g} -> '
    f'{after["loss"]:.3g}, {score} {before[score]:.2f} -> {after[score]:.2f}: {verdict}'
  )
  if not learnt:
    print('try another config.train.learning_rate, and look whether labels and videos agree')
  return learnt


def _plain(config: Config) -> Config:
  """Returns the experiment with every regulariser off."""
  model = dataclasses.replace(
    config.model, dropout=0.0, attention_dropout=0.0, head_dropout=0.0, drop_path=0.0
  )
  train = dataclasses.replace(
    config.train, label_smoothing=0.0, weight_decay=0.0, ema_decay=0.0, steps=STEPS
  )
  mix = dataclasses.replace(config.mix, mixup=0.0, cutmix=0.0)
  return dataclasses.replace(config, model=model, train=train, mix=mix)
