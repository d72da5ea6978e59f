# SPDX-License-Identifier: Apache-2.0
"""Does masked pretraining help? Scratch against pretrained, with few and with many labels.

Run from the repository root:

    python experiments/pretraining.py runs/pretraining [--task=plain] [--minutes=60] [--seeds=3]

Each of the four models is pretrained on 10,000 clips without labels, and then fine-tuned on 1, 5,
10 and 100 % of 8,000 labeled ones, with the same settings as from scratch: once with all that it
has learned, and once without its positions. `nearest neighbors` asks the frozen features instead.
Results go to results.jsonl in the folder, a row each; the command goes on where it was stopped, and
draws table, plot and reconstructions of what is there. Data and tasks: textured_digits.py.
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util
from matplotlib.figure import Figure
from tqdm import tqdm

from markdown_table import markdown
from textured_digits import FRAMES, QUESTIONS, SIZE, clips
from vivit_jax.config.schema import Clip, Config, Masked, Model, Task, Train
from vivit_jax.data.moving_digits import VERBS
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch, shard_state
from vivit_jax.evaluate.reconstructions import Reconstruction, draw_reconstruction
from vivit_jax.model.vivit import ViViT, build
from vivit_jax.train.masked_evaluation import nearest_label
from vivit_jax.train.masked_report import reconstructed
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state, start_from
from vivit_jax.train.step import compile_forward, compile_step

MODELS = (
  'factorised_encoder', 'spatio_temporal', 'factorised_self_attention', 'factorised_dot_product',
)  # fmt: skip
UNLABELED, LABELED = 10_000, 8_000
SPLITS = (('train', LABELED), ('test', 800))
SHARES = (0.01, 0.05, 0.1, 1.0)
# Of a task: whether texture moves behind the digits, and which question is asked. Without texture,
# most patches are gray but for noise, which a target normalized by patch would blow up.
TASKS = {'plain': (False, 'digit'), 'digit': (True, 'digit'), 'texture': (True, 'texture')}
STARTS = {
  'scratch': 'C7o--', 'pretrained': 'C3o-', 'pretrained, new positions': 'C0o-',
}  # fmt: skip
FROZEN = {'scratch': 'random features', 'pretrained': 'pretrained features'}


def config_of(model: str, hidden: Masked | None, seed: int, steps: int) -> Config:
  """Returns a run of one of the models: 4 x 6 x 6 tokens, 0.1 M parameters.

  Args:
    model: one of MODELS.
    hidden: of its pretraining; None for fine-tuning.
    seed: of the run.
    steps: of the run.
  """
  masked = hidden is not None
  by_patch = masked and model == 'factorised_encoder'
  return Config(
    seed=seed,
    task=Task('masked', (), ()) if masked else Task(classes=(len(VERBS),)),
    model=Model(
      attention='factorised_encoder_by_patch' if by_patch else model,  # type: ignore[arg-type]
      layers=2, width=48, mlp_dim=96, heads=4, temporal_layers=2, patch=(2, 4, 4),
      tubelet_init='random', pooling='none' if masked else 'mean',
    ),
    clip=Clip(frames=FRAMES, height=SIZE, width=SIZE),
    masked=hidden or Masked(),
    train=Train(
      batch_size=32, steps=steps, optimizer='adamw',
      learning_rate=3e-3 if masked else 4e-3, weight_decay=0.05,
      second_moment_decay=0.95 if masked else 0.999, layer_decay=1.0,
    ),
  )  # fmt: skip


def run(config: Config, videos: np.ndarray, labels: np.ndarray, params: Any, title: str) -> Any:
  """Returns the parameters after training, and the loss of every hundredth step."""
  mesh, model = make_mesh(None, jax.devices()[:1]), build(config)
  optimizer = make_optimizer(config.train, config.train.steps or 0)
  state = init_state(config, model, optimizer)
  if params is not None:
    state = start_from(config, state, merged(state.params, params))
  state, step = shard_state(mesh, state), compile_step(config, model, optimizer, mesh)
  rng, losses = np.random.default_rng(config.seed), []
  for number in tqdm(range(config.train.steps or 0), title, leave=False):
    rows = rng.integers(len(videos), size=config.train.batch_size)
    batch = {'video': videos[rows], 'label': labels[rows]}
    state, metrics = step(state, shard_batch(mesh, batch))
    if number % 100 == 99:
      losses.append(round(float(metrics['loss']), 4))
  return jax.device_get(state.params), losses


def merged(fresh: Any, given: Any) -> Any:
  """Returns fresh parameters with those given; the decoder is left out."""
  own, held = (traverse_util.flatten_dict(tree) for tree in (fresh, given))
  return traverse_util.unflatten_dict(own | {n: held[n] for n in own if n in held})


def without_positions(params: Any) -> Any:
  """Returns parameters without the learned positions."""
  flat = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict({n: x for n, x in flat.items() if n[-1] != 'position'})


def pretrained(
  file: Path, config: Config, clips_of: Callable[[], np.ndarray]
) -> tuple[Any, list[float]]:
  """Returns the parameters of a model's pretraining, which runs once, and its losses."""
  if not file.exists():
    videos = clips_of()
    none = np.zeros((len(videos), 1), np.int32)
    params, losses = run(config, videos, none, None, f'pretraining {file.stem}')
    file.write_bytes(serialization.msgpack_serialize({'params': params, 'losses': losses}))
  held = serialization.msgpack_restore(file.read_bytes())
  return held['params'], list(held['losses'])


def outputs(config: Config, model: ViViT, params: Any, videos: np.ndarray) -> np.ndarray:
  """Returns what a model gives for clips, a hundred at a time."""
  forward = compile_forward(model, make_mesh(None, jax.devices()[:1]), config.clip)
  parts = np.split(videos, len(videos) // 100)
  return np.concatenate([forward(params, {'video': part}) for part in parts])


Examples = tuple[np.ndarray, np.ndarray]  # videos, and labels [N, 1]


def fine_tuned(config: Config, params: Any, train: Examples, test: Examples, title: str) -> dict:
  """Returns the top-1 of test clips after fine-tuning, and the training losses."""
  params, curve = run(config, *train, params, title)
  logits = outputs(config, build(config), params, test[0])
  return {'top1': float((logits.argmax(axis=1) == test[1][:, 0]).mean()), 'losses': curve}


def nearest(config: Config, params: Any, train: Examples, test: Examples) -> dict:
  """Returns the top-1 of the probe of masked pretraining: nearest neighbors by frozen features."""
  model = build(config)
  fresh = init_state(config, model, make_optimizer(config.train, 1)).params
  params = {n: x for n, x in merged(fresh, params or {}).items() if n != 'head'}
  both = np.concatenate([train[0], test[0]])
  known, asked = np.split(outputs(config, model.clone(classes=0), params, both), [len(train[0])])
  return {'top1': float((nearest_label(known, train[1][:, 0], asked) == test[1][:, 0]).mean())}


def report(folder: Path, rows: list[dict[str, Any]], models: list[str]) -> None:
  """Prints the table, mean and range over seeds, and draws it."""
  figure = Figure(figsize=(2.9 * len(models), 3.2), layout='constrained')
  table = []
  panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
  for axes, model in zip(panels, models, strict=True):
    for start in (*STARTS, *FROZEN.values()):
      mine = [row for row in rows if (row['model'], row['start']) == (model, start)]
      cells = {s: [100 * row['top1'] for row in mine if row['share'] == s] for s in SHARES}
      table.append([model, start, *(_cell(values) for values in cells.values())])
      held = {100 * share: values for share, values in cells.items() if values}
      if start in STARTS and held:
        middle = [float(np.mean(values)) for values in held.values()]
        ranges = [
          [m - min(v) for m, v in zip(middle, held.values(), strict=True)],
          [max(v) - m for m, v in zip(middle, held.values(), strict=True)],
        ]
        axes.errorbar(list(held), middle, ranges, fmt=STARTS[start], capsize=3, label=start)
    axes.set(xscale='log', title=model.replace('factorised_', ''), xlabel='labels used, %')
    axes.grid(alpha=0.3)
  panels[0].legend(frameon=False, fontsize=8)
  panels[0].set_ylabel('top-1, %')
  figure.savefig(folder / 'pretraining.png', dpi=110)
  print(markdown(['model', 'start', *(f'{share:.0%}' for share in SHARES)], table))


def _cell(values: list[float]) -> str:
  if not values:
    return '-'
  mean = f'{np.mean(values):.1f}'
  return mean if len(values) == 1 else f'{mean} ({min(values):.1f} to {max(values):.1f})'


def draw(file: Path, config: Config, params: Any, video: np.ndarray) -> None:
  """Draws a test clip as it is, as the encoder sees it, and as the decoder predicts it."""
  show = jax.jit(functools.partial(reconstructed, config, build(config), params))
  visible, predicted = map(np.asarray, show(video[None], np.zeros(1, np.int32)))
  one = Reconstruction('', 0.0, video, visible[0], predicted[0])
  file.write_bytes(draw_reconstruction(one))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=Path)
  parser.add_argument('--task', default='plain', choices=TASKS, help='(%(default)s)')
  parser.add_argument('--minutes', type=float, default=60.0, help='after which no run begins (60)')
  parser.add_argument('--seeds', type=int, default=3, help='fine-tunings of each cell (3)')
  parser.add_argument('--models', nargs='+', default=MODELS, choices=MODELS, metavar='MODEL')
  parser.add_argument('--shares', nargs='+', type=float, default=SHARES, metavar='SHARE')
  parser.add_argument('--starts', nargs='+', default=tuple(STARTS), choices=STARTS, metavar='START')
  parser.add_argument('--pretraining', type=int, default=3000, metavar='STEPS')
  parser.add_argument('--finetuning', type=int, default=300, metavar='STEPS')
  parser.add_argument('--ratio', type=float, default=0.5, help='of hidden patches (%(default)s)')
  parser.add_argument('--decoder-layers', type=int, default=1, help='(%(default)s)')
  options = parser.parse_args()
  texture, question = TASKS[options.task]
  hidden = Masked(
    options.ratio, decoder_layers=options.decoder_layers, decoder_width=32, decoder_heads=2,
    decoder_mlp_dim=64, target='tubelet' if texture else 'pixels',
  )  # fmt: skip
  options.folder.mkdir(parents=True, exist_ok=True)
  of_all = ('task', 'pretraining', 'finetuning', 'ratio', 'decoder_layers')
  settings = json.dumps({name: getattr(options, name) for name in of_all})
  kept = options.folder / 'settings.json'
  if kept.exists() and kept.read_text() != settings:
    parser.error(f'{options.folder} has results of {kept.read_text()}: give another folder')
  kept.write_text(settings)
  file, end = options.folder / 'results.jsonl', time.monotonic() + 60 * options.minutes
  rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
  unlabeled = functools.cache(lambda: clips('train', UNLABELED, 1, texture)[0])
  column = QUESTIONS.index(question)
  train, test = (
    (videos, labels[:, [column]])
    for videos, labels in (clips(split, count, 0, texture) for split, count in SPLITS)
  )
  done = {(r['model'], r['share'], r['start'], r['seed']) for r in rows}

  def weights_of(model: str, start: str) -> tuple[Any, list[float]]:
    if start == 'scratch':
      return None, []
    config = config_of(model, hidden, 0, options.pretraining)
    params, losses = pretrained(options.folder / f'{model}.msgpack', config, unlabeled)
    return without_positions(params) if start.endswith('new positions') else params, losses

  def keep(found: dict, **cell: Any) -> None:
    rows.append({**cell, **found})
    with file.open('a') as handle:
      handle.write(json.dumps(rows[-1]) + '\n')
    tqdm.write(f'{" ".join(map(str, cell.values()))}: {found["top1"]:.3f}')

  for seed, model in itertools.product(range(options.seeds), options.models):
    for start, name in FROZEN.items():
      if (model, 1.0, name, seed) not in done and seed == 0 and time.monotonic() < end:
        config = config_of(model, None, seed, options.finetuning)
        found = nearest(config, weights_of(model, start)[0], train, test)
        keep(found, model=model, share=1.0, start=name, seed=seed)
    for share, start in itertools.product(options.shares, options.starts):
      if (model, share, start, seed) in done or time.monotonic() > end:
        continue
      weights, losses = weights_of(model, start)
      config = config_of(model, None, seed, options.finetuning)
      chosen = np.random.default_rng(seed).permutation(LABELED)[: int(share * LABELED)]
      part = train[0][chosen], train[1][chosen]
      found = fine_tuned(config, weights, part, test, f'{model} {start} {share:.0%}')
      keep({**found, 'pretraining': losses}, model=model, share=share, start=start, seed=seed)
  models = [model for model in MODELS if model in {row['model'] for row in rows}]
  report(options.folder, rows, models)
  for model in models:
    if (options.folder / f'{model}.msgpack').exists():
      config = config_of(model, hidden, 0, options.pretraining)
      picture = options.folder / f'reconstruction_{model}.png'
      draw(picture, config, weights_of(model, 'pretrained')[0], test[0][0])


if __name__ == '__main__':
  main()
