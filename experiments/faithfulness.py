# SPDX-License-Identifier: Apache-2.0
"""Faithfulness of attention maps: deletion and insertion on moving digits."""

# Run from the repository root, with a trained run of each model:
#   for m in spatio_temporal factorised_encoder factorised_self_attention factorised_dot_product
#   do vivit train --config=configs/moving_digits.py:$m --workdir=RUNS/$m; done
#   python experiments/faithfulness.py RUNS

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from markdown_table import markdown
from publish import HERE, fill_in
from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.config.schema import Clip
from vivit_jax.data.examples import read_view
from vivit_jax.data.manifest import Video
from vivit_jax.data.moving_digits import digit_videos, ensure, opacity
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.files import write_json
from vivit_jax.inference.attention_maps import gradient, rollout
from vivit_jax.inference.predict import experiment, make_protocol, unlabelled
from vivit_jax.inference.windows import center_crop
from vivit_jax.model.values import normalize_pixels
from vivit_jax.model.vivit import apply
from vivit_jax.weights.pretrained import Pretrained, load_run

MODELS = (
  'spatio_temporal',
  'factorised_encoder',
  'factorised_self_attention',
  'factorised_dot_product',
)
STEPS = 20  # of equally many tubelets, from none to all
BATCH = STEPS + 1
ON_DIGIT = 0.5  # share of a tubelet's most opaque pixels that counts as on the digit

Curves = dict[str, dict[str, list[float]]]  # by map, by measure: one number a clip


def measure(pretrained: Pretrained, workdir: Path, clips: int) -> Curves:
  """Returns deletion, insertion, mass on the digit and pointing of each map, for each clip.

  Tubelets are deleted from the one with the greatest value to the least, by setting them to the
  mean color of the clip, or inserted into a clip of that color; the numbers are the mean
  probability, over all steps, of the label that the model gives the whole clip.
  """
  config = read_config(workdir)
  settings = config.data.moving_digits
  root, shown = ensure(settings), digit_videos(settings, 'test')[:clips]
  protocol = make_protocol(pretrained.source, 1, 1)
  programs = _compile(pretrained)
  rng = np.random.default_rng(0)
  found: Curves = {}
  for k, sample in enumerate(shown):
    video = Video(str(root / 'test' / f'{k:05d}.mp4'), None, None, ())
    pixels = read_view(unlabelled([video]), 0, experiment(pretrained.source, protocol))
    clip = jnp.asarray(pixels[None])
    values = normalize_pixels(clip, protocol.mean, protocol.std, protocol.channels)
    digit = _digit(opacity(sample), protocol.clip, pretrained)
    label = int(programs['logits'](values)[0].argmax())
    maps = {
      'rollout': np.asarray(programs['rollout'](values)[0]),
      'absolute gradient': np.asarray(programs['gradient'](values, label)[0]),
      'random': rng.random(digit.shape),
      'true mask': digit,
    }
    for name, grid in maps.items():
      row = {
        **_curves(programs['logits'], values, grid, label, pretrained),
        'mass': float(grid[digit > ON_DIGIT * digit.max()].sum() / grid.sum()),
        'pointing': float(digit.flat[grid.argmax()] > ON_DIGIT * digit.max()),
        'digit': float((digit > ON_DIGIT * digit.max()).mean()),
      }
      for measured, number in row.items():
        found.setdefault(name, {}).setdefault(measured, []).append(number)
  return found


def _compile(pretrained: Pretrained) -> dict[str, Callable]:
  model, params = pretrained.model, jax.device_put(pretrained.params)
  logits = jax.jit(lambda p, x: apply(model, p, x))
  rolled = jax.jit(lambda p, x: rollout(model, p, x))
  # One program for all labels.
  graded = jax.jit(lambda p, x, k: gradient(model, p, x, k))
  return {
    'logits': lambda x: logits(params, x),
    'rollout': lambda x: rolled(params, x),
    'gradient': lambda x, k: graded(params, x, k),
  }


def _digit(shown: np.ndarray, clip: Clip, pretrained: Pretrained) -> np.ndarray:
  """Returns the digit's share of each tubelet, [T, S]."""
  (indices,) = evaluation_clips(np.arange(len(shown)) / 12, clip, 1)
  crops = center_crop(make_protocol(pretrained.source, 1, 1))
  gray = (255 * shown[indices]).astype(np.uint8)
  cropped = np.stack([crops(np.repeat(frame[..., None], 3, axis=-1))[0] for frame in gray])
  (time, rows, columns), (t, h, w) = pretrained.source.grid, pretrained.source.model.patch
  parts = cropped[..., 0].reshape(time, t, rows, h, columns, w) / 255
  return parts.mean(axis=(1, 3, 5)).reshape(time, rows * columns)


def _curves(
  logits: Callable, values: jax.Array, grid: np.ndarray, label: int, pretrained: Pretrained
) -> dict[str, float]:
  """Returns the areas below the deletion and the insertion curve of one map."""
  order = np.argsort(-grid.reshape(-1), kind='stable')
  rank = np.empty(len(order), int)
  rank[order] = np.arange(len(order))
  gone = rank < (np.arange(BATCH) * len(order) / STEPS)[:, None]  # [step, token]
  (time, rows, columns), (t, h, w) = pretrained.source.grid, pretrained.source.model.patch
  mask = gone.reshape(BATCH, time, 1, rows, 1, columns, 1)
  mask = np.broadcast_to(mask, (BATCH, time, t, rows, h, columns, w))
  mask = mask.reshape(BATCH, time * t, rows * h, columns * w, 1)
  color = values.mean(axis=(1, 2, 3), keepdims=True)
  result = {}
  for name, hidden in (('deletion', mask), ('insertion', ~mask)):
    shares = jax.nn.softmax(logits(jnp.where(hidden, color, values)), axis=-1)[:, label]
    result[name] = float((shares[1:] + shares[:-1]).mean() / 2)
  return result


def table(found: dict[str, Curves]) -> str:
  """Returns the means over clips, a line for each model and map."""
  lines = [
    [
      f'{model}: {name}',
      *(f'{np.mean(row[k]):.3f}' for k in ('deletion', 'insertion', 'mass')),
      f'{np.mean(row["pointing"]):.2f}',
    ]
    for model, curves in found.items()
    for name, row in curves.items()
  ]
  return markdown(('map', 'deletion', 'insertion', 'mass on the digit', 'pointing'), lines)


def main() -> None:
  """Measures all models and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('runs', type=Path, help='folder of trained runs, one a model')
  parser.add_argument('--clips', type=int, default=120, help='of the test split (%(default)s)')
  options = parser.parse_args()
  found = {}
  for model in MODELS:
    if (options.runs / model / 'config.json').exists():
      found[model] = measure(load_run(options.runs / model), options.runs / model, options.clips)
      print(table({model: found[model]}), flush=True)
  digit = np.mean([row['digit'] for curves in found.values() for row in curves.values()])
  about = f'The digit covers {digit:.0%} of the tubelets; {options.clips} test clips.'
  text = f'{table(found)}\n{about}\n'
  print(text)
  means = {
    model: {name: {k: float(np.mean(v)) for k, v in row.items()} for name, row in curves.items()}
    for model, curves in found.items()
  }
  write_json(HERE / 'results' / 'faithfulness.json', means)
  fill_in(HERE / 'README.md', 'faithfulness', f'\n{text}\n')


if __name__ == '__main__':
  main()
