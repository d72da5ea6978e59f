# SPDX-License-Identifier: Apache-2.0
"""What both processes of test_hosts.py run; each leaves what it found in FOLDER/<number>.*.

Processes are dear to start, so that one pair serves all of those tests.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np

from support.steps import MESHES, config_of, make_batch, train
from support.videos import config
from vivit_jax.config.schema import Attention, Evaluate, Model
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import read_manifest
from vivit_jax.distributed import hosts, shutdown
from vivit_jax.distributed.launch import add_launch, start
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import host_rows
from vivit_jax.evaluate.metrics import compute
from vivit_jax.model.vivit import build, init_params
from vivit_jax.train.evaluation import evaluate_split
from vivit_jax.train.step import compile_forward

FOUR_VIEWS = Evaluate(temporal_views=2, spatial_views=2, batch_size=8)
TINY = Model(layers=1, width=8, mlp_dim=8, heads=1, patch=(2, 16, 16))
ARRAYS = ('logit_sums', 'views', 'labels', 'clip_hits')


def evaluated(root: Path, split: str, folder: Path):
  """Returns what all processes together predict for a split, whose bad videos go to `folder`."""
  settings = dataclasses.replace(config(), model=TINY)
  mesh = make_mesh(None)
  data = read_manifest(root, split, settings.task)
  rng = np.random.default_rng(0)
  params = jax.tree.map(  # a fresh head would answer 0 to everything
    lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype),
    init_params(build(settings), settings.clip, jax.random.key(0)),
  )
  forward = compile_forward(build(settings), mesh)
  failures = Failures(data, 0.5, folder)
  found = evaluate_split(settings, data, forward, params, FOUR_VIEWS, failures)
  return found, compute(found, settings.task, FOUR_VIEWS)


def losses(attention: Attention, mesh: str) -> list[float]:
  """Returns those of five steps on a mesh over all devices, each process with its rows."""
  settings = config_of(attention, MESHES[mesh])
  rng = np.random.default_rng(0)
  rows = host_rows(make_mesh(settings), settings.train.batch_size)
  batches = [make_batch(settings, rng) for _ in range(5)]
  mine = [{name: whole[rows] for name, whole in batch.items()} for batch in batches]
  return [metrics['loss'] for metrics in train(settings, mine, 8)[1]]


def differences(folder: Path) -> dict[str, str]:
  """Returns what is said of processes that do not fit, by kind."""
  process, said = hosts.process(), {}
  same = {'config.seed': 3, 'code': 'abc'}
  hosts.assert_equal_on_all_hosts(same)
  for name, facts in {
    'value': {'config.seed': 3 + process, 'code': 'abc'},
    'missing': same if process else {**same, 'new': None},
    'both': {'config.seed': str(process), 'code': process},
  }.items():
    try:
      hosts.assert_equal_on_all_hosts(facts)
    except hosts.HostsDifferError as error:
      said[name] = str(error)
  for name, place in {'shared': folder, 'apart': folder / f'own{process}'}.items():
    place.mkdir(exist_ok=True)
    try:
      hosts.check_shared(place)
    except hosts.HostsDifferError as error:
      said[name] = str(error)
  return said


def conversation() -> dict[str, object]:
  """Returns what came through of what this process said."""
  process = hosts.process()
  if not hosts.is_first():
    for number in range(12):
      hosts.post('topic', [process, number])
  answers = hosts.gather_to_first(process * 10)
  first = [hosts.collect('topic'), hosts.collect('topic')] if hosts.is_first() else []
  return {
    'neighbors': hosts.neighbors(),
    'broadcast': hosts.broadcast({'a': process}),
    'gather_to_first': answers,
    'collected': first,
  }


def main() -> None:
  """Runs everything in one process of two."""
  parser = argparse.ArgumentParser()
  parser.add_argument('root', type=Path)
  parser.add_argument('folder', type=Path)
  parser.add_argument('--losses', nargs='*', default=[], metavar='ATTENTION:MESH')
  parser.add_argument('--splits', nargs='*', default=[])
  add_launch(parser)
  options = parser.parse_args()
  logging.getLogger('jax').setLevel('ERROR')
  start(options, 60)
  process = hosts.process()
  found = {
    'devices': [len(jax.devices()), len(jax.local_devices())],
    'said': differences(options.folder),
    'conversation': conversation(),
    'losses': {pair: losses(*pair.split(':')) for pair in options.losses},
    'results': {},
  }
  for split in options.splits:
    predictions, found['results'][split] = evaluated(options.root, split, options.folder)
    arrays = {name: getattr(predictions, name) for name in ARRAYS}
    np.savez(options.folder / f'{split}{process}.npz', **arrays)
  (options.folder / f'{process}.json').write_text(json.dumps(found))
  print(f'process {process} is done')


if __name__ == '__main__':
  try:
    main()
    shutdown.exit_cleanly()
  except Exception as error:
    raise SystemExit(shutdown.exit_with_error(error)) from error
