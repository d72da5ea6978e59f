# SPDX-License-Identifier: Apache-2.0
"""Trains 20 heads, a grid of learning rates and weight decays, on one frozen encoder."""

# Run from the repository root, on one device:
#   python experiments/probe_grid.py WORKDIR --config=configs/vjepa2.py:L \
#     --config.data.root=DATA --config.init.checkpoint=hf://facebook/vjepa2-vitl-fpc64-256
# WORKDIR/best is then a checkpoint as `vivit train` leaves it, for `vivit predict` and others.

import sys
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from markdown_table import markdown
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.workdir import meaning, write_snapshot
from vivit_jax.config.file import load
from vivit_jax.config.schema import Config
from vivit_jax.data.pipeline import evaluation_batches, train_batches
from vivit_jax.data.splits import open_split, with_classes
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.model.vivit import build
from vivit_jax.train import probes
from vivit_jax.train.initialize import initial_state
from vivit_jax.train.optimizer import make_optimizer, total_steps


def train(config: Config, workdir: Path) -> np.ndarray:
  """Trains the heads and writes the best of them; returns the validation accuracy of each.

  Args:
    config: its head, data, batch size and length; its rate and decay give way to the grid's.
    workdir: a new folder.
  """
  if config.init.checkpoint is None:
    raise ConfigError('config.init.checkpoint is needed: the encoder stays as it is')
  if workdir.exists():
    raise ConfigError(f'{workdir} exists: give another folder')
  config = with_classes(config)
  data, model = open_split(config, 'train'), build(config)
  steps, settings = total_steps(config, len(data.videos)), probes.grid()
  params = initial_state(config, model, make_optimizer(config.train, steps)).params
  frozen, head = probes.split(jax.device_put(params))
  state, step = probes.start(head, len(settings)), probes.compiled(config, model, settings, steps)
  rows = range(config.train.batch_size)
  batches = train_batches(data, config, start_step=0, stop_step=steps, rows=rows)
  for batch in tqdm(batches, 'training', steps, unit='step'):
    inputs = {name: batch[name] for name in ('video', 'label')}
    state, _ = step(state, frozen, inputs)
  found = validate(config, model, state.params, frozen)
  best = int(np.argmax(found))
  own = jax.tree.map(lambda leaf: np.asarray(leaf[best]), state.params)
  with Checkpoints(workdir) as checkpoints:
    tree = {**jax.tree.map(np.asarray, frozen), **own}
    about = {'settings': meaning(config)}
    checkpoints.save_best(steps, tree, float(found[best]), about=about)
  write_snapshot(workdir, config, data.fingerprint, data.class_names)
  return found


def validate(config: Config, model, heads, frozen) -> np.ndarray:
  """Returns the top-1 accuracy of each head on one central view of the validation videos."""
  data, forward = open_split(config, 'validation'), probes.forward(config, model)
  size = config.evaluate.batch_size
  batches = evaluation_batches(
    data, config, temporal_views=1, spatial_views=1, batch_size=size, host=0, hosts=1
  )
  right, seen = 0.0, 0
  for batch in tqdm(batches, 'validation', -(-len(data.videos) // size), unit='batch'):
    there = np.asarray(batch['mask'])
    logits = forward(heads, frozen, batch['video'])[:, there]
    metrics = probes.accuracy(logits, batch['label'][there], config.task)
    right = right + np.asarray(metrics['top1']) * there.sum()
    seen += int(there.sum())
  return np.asarray(right) / seen


def main(arguments: list[str]) -> int:
  """Prints the table of accuracies, in percent."""
  workdir, *flags = arguments or ['']
  if not workdir or workdir.startswith('-'):
    print('give WORKDIR --config=FILE --config.init.checkpoint=WEIGHTS ...', file=sys.stderr)
    return 2
  try:
    found = train(load(flags), Path(workdir))
  except UserError as error:
    print(f'probe_grid: {error}', file=sys.stderr)
    return 2
  table = found.reshape(len(probes.RATES), len(probes.DECAYS))
  lines = [
    [f'{rate:g}', *(f'{100 * x:.1f}' for x in row)]
    for rate, row in zip(probes.RATES, table, strict=True)
  ]
  print(markdown(('rate', *(f'decay {decay:g}' for decay in probes.DECAYS)), lines))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
