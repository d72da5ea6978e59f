# SPDX-License-Identifier: Apache-2.0
"""Does masked pretraining help? Scratch against pretrained, with few and with many labels.

Run from the repository root:

    python experiments/pretraining.py runs/pretraining [--minutes=60] [--seeds=3]

Each of the four models is pretrained on 10,000 clips without labels, and then fine-tuned on 1, 5,
10 and 100 % of 8,000 labeled ones, with the same settings as from scratch. Results go to
results.jsonl in the folder, a row each; the command goes on where it was stopped, and draws table
and plot of what is there. Data: textured_digits.py.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization, traverse_util
from matplotlib.figure import Figure
from tqdm import tqdm

from markdown_table import markdown
from textured_digits import FRAMES, SIZE, clips
from vivit_jax.config.schema import Clip, Config, Masked, Model, Task, Train
from vivit_jax.data.moving_digits import VERBS
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch, shard_state
from vivit_jax.model.vivit import build
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import init_state, start_from
from vivit_jax.train.step import compile_forward, compile_step

MODELS = (
  'factorised_encoder', 'spatio_temporal', 'factorised_self_attention', 'factorised_dot_product',
)  # fmt: skip
UNLABELED, LABELED = 10_000, 8_000
SPLITS = (('train', LABELED), ('test', 800))
SHARES = (0.01, 0.05, 0.1, 1.0)
MASKED = Masked(0.75, decoder_layers=1, decoder_width=32, decoder_heads=2, decoder_mlp_dim=64)


def config_of(model: str, masked: bool, seed: int, steps: int) -> Config:
  """Returns a run of one of the models: 4 x 6 x 6 tokens, 0.1 M parameters."""
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
    masked=MASKED,
    train=Train(
      batch_size=32, steps=steps, optimizer='adamw',
      learning_rate=1.5e-3 if masked else 1e-3, weight_decay=0.05,
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
  """Returns fresh parameters with those of pretraining; the decoder is left out."""
  own, held = (traverse_util.flatten_dict(tree) for tree in (fresh, given))
  return traverse_util.unflatten_dict(own | {n: held[n] for n in own if n in held})


def pretrained(folder: Path, model: str, videos: np.ndarray, steps: int) -> tuple[Any, list[float]]:
  """Returns the parameters of a model's pretraining, which runs once, and its losses."""
  file, config = folder / f'{model}.msgpack', config_of(model, True, 0, steps)
  if not file.exists():
    none = np.zeros((len(videos), 1), np.int32)
    params, losses = run(config, videos, none, None, f'pretraining {model}')
    file.write_bytes(serialization.msgpack_serialize({'params': params, 'losses': losses}))
  held = serialization.msgpack_restore(file.read_bytes())
  return held['params'], list(held['losses'])


def accuracy(config: Config, params: Any, videos: np.ndarray, labels: np.ndarray) -> float:
  """Returns the top-1 of the test clips."""
  forward = compile_forward(build(config), make_mesh(None, jax.devices()[:1]), config.clip)
  logits = [forward(params, {'video': part}) for part in np.split(videos, len(videos) // 100)]
  return float((np.concatenate(logits).argmax(axis=1) == labels[:, 0]).mean())


def report(folder: Path, rows: list[dict[str, Any]]) -> None:
  """Prints the table, mean and range over seeds, and draws it."""
  figure = Figure(figsize=(11, 3.2), layout='constrained')
  table = []
  for axes, model in zip(figure.subplots(1, len(MODELS), sharey=True), MODELS, strict=True):
    for start, style in (('scratch', 'C7o--'), ('pretrained', 'C0o-')):
      means, cells = [], []
      for share in SHARES:
        held = [
          r['top1'] for r in rows if (r['model'], r['start'], r['share']) == (model, start, share)
        ]
        means.append(100 * float(np.mean(held)) if held else float('nan'))
        spread = f'{100 * min(held):.1f} to {100 * max(held):.1f}' if held else ''
        cells.append(f'{means[-1]:.1f} ({spread}, {len(held)})' if held else '-')
      axes.plot([100 * share for share in SHARES], means, style, label=start)
      table.append([model, start, *cells])
    axes.set(xscale='log', title=model.replace('factorised_', ''), xlabel='labels used, %')
    axes.grid(alpha=0.3)
  axes.legend(frameon=False)
  figure.axes[0].set_ylabel('top-1, %')
  figure.savefig(folder / 'pretraining.png', dpi=110)
  print(markdown(['model', 'start', *(f'{share:.0%}' for share in SHARES)], table))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', type=Path)
  parser.add_argument('--minutes', type=float, default=60.0, help='after which no run begins (60)')
  parser.add_argument('--seeds', type=int, default=3, help='fine-tunings of each cell (3)')
  parser.add_argument('--models', nargs='+', default=MODELS, choices=MODELS, metavar='MODEL')
  parser.add_argument('--shares', nargs='+', type=float, default=SHARES, metavar='SHARE')
  parser.add_argument('--pretraining', type=int, default=3000, metavar='STEPS')
  parser.add_argument('--finetuning', type=int, default=300, metavar='STEPS')
  parser.add_argument('--plain', action='store_true', help='a gray background, no texture')
  options = parser.parse_args()
  texture = not options.plain
  options.folder.mkdir(parents=True, exist_ok=True)
  file, end = options.folder / 'results.jsonl', time.monotonic() + 60 * options.minutes
  rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
  unlabeled = functools.cache(lambda: clips('train', UNLABELED, 1, texture)[0])
  (videos, labels), test = (clips(split, count, 0, texture) for split, count in SPLITS)
  done = {(r['model'], r['share'], r['start'], r['seed']) for r in rows}
  for seed in range(options.seeds):
    for model in options.models:
      for share in options.shares:
        for start in ('scratch', 'pretrained'):
          if (model, share, start, seed) in done or time.monotonic() > end:
            continue
          weights: Any = None
          losses: list[float] = []
          if start == 'pretrained':
            weights, losses = pretrained(options.folder, model, unlabeled(), options.pretraining)
          config, count = config_of(model, False, seed, options.finetuning), int(share * LABELED)
          chosen = np.random.default_rng(seed).permutation(LABELED)[:count]
          title = f'{model} {start} {share:.0%}'
          params, curve = run(config, videos[chosen], labels[chosen], weights, title)
          row = {
            'model': model, 'share': share, 'start': start, 'seed': seed,
            'top1': accuracy(config, params, *test), 'losses': curve, 'pretraining': losses,
          }  # fmt: skip
          rows.append(row)
          with file.open('a') as handle:
            handle.write(json.dumps(row) + '\n')
          tqdm.write(f'{title} seed {seed}: {row["top1"]:.3f}')
  report(options.folder, rows)


if __name__ == '__main__':
  main()
