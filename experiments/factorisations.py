# SPDX-License-Identifier: Apache-2.0
"""Table 2: accuracy and cost of the four models and of average pooling, with equal steps."""

# Run from the repository root: python experiments/factorisations.py [--help]
# An interrupted one goes on where it was when it is run again.

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from draw import dots
from markdown_table import markdown
from publish import Experiment, Plan, main, spread, values
from sweep import Row, Run, repeat
from vivit_jax.config.file import load
from vivit_jax.config.schema import Config
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.model.vivit import build
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state
from vivit_jax.train.step import compile_step

# Settings; and of the paper's Table 2: Kinetics-400 and Epic-Kitchens (action) top-1 in percent,
# GFLOPs, millions of parameters, milliseconds to run a clip on a TPU.
MODELS: dict[str, tuple[tuple[str, ...], tuple[float, float, float, float, float]]] = {
  'spatio_temporal': (
    ('--config.model.attention=spatio_temporal', '--config.model.pooling=cls'),
    (80.0, 43.1, 455.2, 88.9, 58.9),
  ),
  'factorised_encoder': (
    ('--config.model.attention=factorised_encoder', '--config.model.pooling=cls'),
    (78.8, 43.7, 284.4, 115.1, 17.4),
  ),
  'factorised_self_attention': (
    ('--config.model.attention=factorised_self_attention', '--config.model.pooling=mean'),
    (77.4, 39.1, 372.3, 117.3, 31.7),
  ),
  'factorised_dot_product': (
    ('--config.model.attention=factorised_dot_product', '--config.model.pooling=mean'),
    (76.3, 39.5, 277.1, 88.9, 22.9),
  ),
  'average over time': (
    (
      '--config.model.attention=factorised_encoder',
      '--config.model.pooling=cls',
      '--config.model.temporal_layers=0',
    ),
    (75.8, 38.8, 283.9, 86.7, 17.3),
  ),
}
ROUNDS = 30  # of the models in turn, so that what else the machine does hits all of them


def runs(plan: Plan) -> list[Run]:
  """Returns every model with every seed."""
  return [
    run
    for name, (settings, _) in MODELS.items()
    for run in repeat(name, plan.seeds, (*plan.base, *settings))
  ]


def step_times(configs: dict[str, Config]) -> dict[str, float]:
  """Returns the median seconds of a training step of each model, all of them run in turn.

  Data is made up and on the device, so that decoding is left out.
  """
  steps: dict[str, Any] = {}
  for name, config in configs.items():
    model, optimizer = build(config), make_optimizer(config.train, 1000)
    step = compile_step(config, model, optimizer, make_mesh(config))
    clip, size = config.clip, config.train.batch_size
    batch = {
      'video': jnp.zeros((size, clip.frames, clip.height, clip.width, 3), jnp.uint8),
      'label': jnp.zeros((size, len(config.task.heads)), jnp.int32),
    }
    steps[name] = [init_state(config, model, optimizer), step, batch]
  found: dict[str, list[float]] = {name: [] for name in configs}
  for k in range(ROUNDS + 2):  # the first two compile and warm up
    for name, entry in steps.items():
      began = time.perf_counter()
      entry[0], _ = jax.block_until_ready(entry[1](entry[0], entry[2]))
      if k >= 2:
        found[name].append(time.perf_counter() - began)
  return {name: statistics.median(times) for name, times in found.items()}


def with_times(rows: list[Row]) -> list[Row]:
  """Returns the rows with `seconds_alone`, see `step_times`."""
  times = step_times({row['name']: load(row['settings']) for row in rows})
  return [{**row, 'seconds_alone': times[row['name']]} for row in rows]


def table(rows: Sequence[Row]) -> str:
  """Returns accuracies and costs beside the paper's."""
  metric = next(iter(rows[0]['results']['report']))
  of_model = {row['name']: row for row in rows}
  first, base = rows[0]['seconds_alone'], MODELS[rows[0]['name']][1]
  lines = []
  for name, row in of_model.items():
    seconds, paper = row['seconds_alone'], MODELS[name][1]
    lines.append(
      [
        name,
        spread(values(rows, name, 'report', metric)),
        f'{row["parameters"] / 1e6:.3f}',
        f'{1e3 * row["gflops"]:.1f}',
        f'{1e3 * seconds:.1f} ({seconds / first:.2f})',
        f'{paper[0]:.1f}',
        f'{paper[1]:.1f}',
        f'{paper[2]:.1f} ({paper[2] / base[2]:.2f})',
        f'{paper[4]:.1f} ({paper[4] / base[4]:.2f})',
      ]
    )
  head = (
    'model', f'test {metric} %', 'M parameters', 'MFLOPs', 'ms a step (ratio)',
    'paper: K400 %', 'Epic %', 'GFLOPs (ratio)', 'ms a clip (ratio)',
  )  # fmt: skip
  return markdown(head, lines)


def plot(rows: Sequence[Row]) -> Figure:
  """Returns accuracy beside the paper's, and what it costs."""
  metric = next(iter(rows[0]['results']['report']))
  names = list(dict.fromkeys(row['name'] for row in rows))
  gflops = {row['name']: [1e3 * row['gflops']] for row in rows}
  return dots(
    {
      f'{metric} top-1 on test videos, %': {
        name: values(rows, name, 'report', metric) for name in names
      },
      'MFLOPs of a clip': gflops,
      'paper: Kinetics-400 top-1, %': {name: [MODELS[name][1][0]] for name in names},
      'paper: Epic-Kitchens action, %': {name: [MODELS[name][1][1]] for name in names},
    },
    'Table 2: the models at equal steps (each dot a seed, | their mean)',
  )


EXPERIMENT = Experiment('factorisations', runs, table, plot, finish=with_times)

if __name__ == '__main__':
  main(EXPERIMENT, __doc__)
