# SPDX-License-Identifier: Apache-2.0
"""What hiding patches saves: time and FLOPs of encoder and decoder, forward and backward."""

# Run from the repository root, on a machine that does nothing else:
#   python experiments/masking.py [--size=Ti] [--batch=2] [--rounds=5]
# An H100's time of a whole step, without one (needs vivit_jax[plan]):
#   python experiments/roofline.py --target=h100 --config=configs/pretrain.py:B/16x2 --batch=32

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from markdown_table import markdown
from vivit_jax.config.file import load
from vivit_jax.config.schema import SIZES, Config
from vivit_jax.model.cost import model_cost
from vivit_jax.model.encoder import Encoder
from vivit_jax.model.masking import draw_places, split_places
from vivit_jax.model.stages import stages
from vivit_jax.model.tokenizer import Tokenizer
from vivit_jax.model.vivit import ViViT, apply, build, init_params, token_grid
from vivit_jax.train.masked import places_in_space

ROOT = Path(__file__).parent.parent
MODELS = (
  'spatio_temporal', 'factorised_encoder', 'factorised_self_attention', 'factorised_dot_product',
)  # fmt: skip
RATIOS = (0.5, 0.75, 0.9)
HEAD = (
  'model', 'hidden', 'encoder s/clip', 'of all patches', 'with decoder s/clip',
  'G multiply-adds, with decoder',
)  # fmt: skip


def encoder(model: ViViT, params: Any, video: jax.Array, places: jax.Array | None) -> jax.Array:
  """Returns the tokens of the visible places, or of all."""
  config, masked = model.config, model.masked
  assert masked is not None
  visible = None if places is None else split_places(masked, places)[0]
  tokenizer = Tokenizer(config)
  x = tokenizer.apply({'params': params['tokenizer']}, video, visible)
  for stage in stages(config):
    layers = config.temporal_layers if stage.name == 'temporal' else config.layers
    one, grid = Encoder(config, stage, layers), token_grid(config, video.shape)
    x = one.apply({'params': params[stage.name]}, x, False, grid, visible)
  return jnp.asarray(x)


def programs(config: Config, batch: int) -> dict[str, Callable[[], Any]]:
  """Returns forward and backward passes: the encoder of all patches, of visible ones, and all."""
  clip, found = config.clip, {}
  shape = (batch, clip.frames, clip.height, clip.width, 3)
  video = jax.random.uniform(jax.random.key(0), shape)
  places = draw_places(jax.random.split(jax.random.key(1), batch), places_in_space(config))

  def timed(outputs: Callable[[Any], jax.Array], params: Any) -> Callable[[], Any]:
    step = jax.jit(jax.grad(lambda params: jnp.square(outputs(params)).mean()))
    return lambda: jax.block_until_ready(step(params))

  for ratio in (None, *RATIOS):
    masked = dataclasses.replace(config.masked, ratio=ratio or 0.5)
    model = build(dataclasses.replace(config, masked=masked))
    params = init_params(model, clip, jax.random.key(0))
    shown = places if ratio else None
    name = f'{ratio:.0%}' if ratio else 'all'
    alone = functools.partial(encoder, model, video=video, places=shown)
    found[f'encoder {name}'] = timed(alone, params)
    if ratio:
      whole = functools.partial(apply, model, video=video, places=places)
      found[f'step {name}'] = timed(whole, params)
  return found


def main() -> None:
  """Prints seconds a clip, in turns of one run, and multiply-adds."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='Ti')
  parser.add_argument('--batch', type=int, default=2)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--models', nargs='+', default=MODELS, choices=MODELS, metavar='MODEL')
  options = parser.parse_args()
  lines: list[list[str]] = []
  for attention in options.models:
    odd = attention == 'factorised_dot_product' and SIZES[options.size].heads % 2
    config = load([
      f'--config={ROOT}/configs/pretrain.py:{options.size}/16x2,{attention}',
      *(['--config.model.heads=4'] if odd else []),  # half of them attend along time
    ])  # fmt: skip
    runs = programs(config, options.batch)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
      run()  # compiles
    for _ in range(options.rounds):
      for name, run in runs.items():
        start = time.perf_counter()
        run()
        seconds[name].append((time.perf_counter() - start) / options.batch)
    whole = statistics.median(seconds['encoder all'])
    full = model_cost(ViViT(config.model, 0), config.clip).matmul_gflops
    lines.append([attention, 'all', f'{whole:.3f}', '1', '', f'{full:.1f}'])
    for ratio in RATIOS:
      masked = dataclasses.replace(config.masked, ratio=ratio)
      cost = model_cost(ViViT(config.model, 0, masked), config.clip).matmul_gflops
      part, step = (
        statistics.median(seconds[f'{kind} {ratio:.0%}']) for kind in ('encoder', 'step')
      )
      lines.append(
        [attention, f'{ratio:.0%}', f'{part:.3f}', f'{part / whole:.2f}', f'{step:.3f}',
         f'{cost:.1f}']
      )  # fmt: skip
    print(markdown(HEAD, lines), flush=True)


if __name__ == '__main__':
  main()
