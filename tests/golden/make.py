# SPDX-License-Identifier: Apache-2.0
"""The golden clip: what predict makes of it, and `python -m golden.make` in tests/, which wrote it.

Written once. A change of expected.json says that every user's videos will look different to their
weights; make it only together with the reason for it, in CHANGELOG.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from support.views import read_views
from vivit_jax.config.schema import Model, Task
from vivit_jax.data.manifest import Video
from vivit_jax.data.moving_digits import DigitVideo, draw, encode
from vivit_jax.data.video.reader import VideoReader
from vivit_jax.data.video.sampling import evaluation_clips
from vivit_jax.inference.predict import make_protocol, predict
from vivit_jax.model.values import normalize_pixels
from vivit_jax.weights import export
from vivit_jax.weights.pretrained import load_pretrained
from vivit_jax.weights.source import Preprocessing, Source, grid, shapes

FOLDER = Path(__file__).parent
CLIP, CHECKPOINT, EXPECTED = 'digit.mp4', 'model.safetensors', 'expected.json'

MODEL = Model(
  attention='factorised_encoder', layers=2, width=24, mlp_dim=48, heads=2, patch=(2, 8, 8),
  temporal_layers=1,
)  # fmt: skip
LABELS = ('juggle', 'jump', 'knit', 'paint', 'run', 'sing', 'swim', 'wave')


def describe(folder: Path = FOLDER) -> dict[str, Any]:
  """Returns what expected.json holds, computed from the clip and the checkpoint of a folder."""
  pretrained = load_pretrained(folder / CHECKPOINT)
  protocol = make_protocol(pretrained.source)
  views, reading = read_views(pretrained.source, Video(str(folder / CLIP), None, None, ()))
  pixels = jnp.asarray(views)
  values = np.asarray(normalize_pixels(pixels, protocol.mean, protocol.std, protocol.channels))
  with VideoReader(str(folder / CLIP)) as reader:
    indices = evaluation_clips(reader.times, protocol.clip, protocol.temporal_views)
  (prediction,) = predict(pretrained, [folder / CLIP])
  return {
    'protocol': dataclasses.asdict(protocol),
    'frames': int(reading.frames),
    'indices': indices.tolist(),
    'range': [float(values.min()), float(values.max())],
    # Per view: its overall colour; and, which a shift by one pixel or frame changes, how bright
    # the quarters of its first and last frame are.
    'colours': _rounded(values.mean(axis=(1, 2, 3))),
    'quarters': _rounded(_quarters(values[:, [0, -1]])),
    'top': [list(pair) for pair in prediction.heads['label']],
  }


def _rounded(array: np.ndarray) -> list[Any]:
  return array.astype(np.float64).round(5).tolist()


def _quarters(frames: np.ndarray) -> np.ndarray:
  """Returns the mean of each quarter of frames [V, 2, H, W, 3]: [V, 2, 2, 2]."""
  v, f, h, w, c = frames.shape
  return frames.reshape(v, f, 2, h // 2, 2, w // 2, c).mean(axis=(3, 5, 6))


def main() -> None:
  """Writes the three files."""
  encode(FOLDER / CLIP, draw(DigitVideo('right', '3', 3, (1,))))
  rng = np.random.default_rng(0)
  task = Task(classes=(len(LABELS),))
  expected = shapes(MODEL, grid(MODEL, 8, 32, 32), len(LABELS))
  params = {name: _weights(name, shape, rng) for name, shape in sorted(expected.items())}
  source = Source(
    Path('made'), 'golden', 'video', params, MODEL, 8, 32, 32, task, LABELS,
    Preprocessing(stride=2, short_side=36), {},
  )  # fmt: skip
  export.write(source, FOLDER / CHECKPOINT)
  lines = [f'{json.dumps(name)}: {json.dumps(value)}' for name, value in describe().items()]
  (FOLDER / EXPECTED).write_text('{\n' + ',\n'.join(lines) + '\n}\n')


def _weights(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Returns weights large enough that the logits depend on what the clip shows."""
  centre = 1.0 if name.endswith('scale') else 0.0
  return (centre + 0.35 * rng.normal(size=shape)).astype(np.float32)


if __name__ == '__main__':
  main()
