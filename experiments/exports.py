# SPDX-License-Identifier: Apache-2.0
"""ONNX exports of full-size models with random weights: logit differences, size and time."""

# Run from the repository root: python experiments/exports.py Ti 112 [attention ...]

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import onnxruntime
from flax import traverse_util

from faithfulness import MODELS
from markdown_table import markdown
from vivit_jax.config.schema import SIZES, Clip, Model, Task
from vivit_jax.inference import onnx_export
from vivit_jax.inference.export import make_export, megabytes
from vivit_jax.model.vivit import ViViT, abstract_params
from vivit_jax.weights.pretrained import Pretrained
from vivit_jax.weights.source import Preprocessing, Source

ROUNDS = 3


def random_model(size: str, pixels: int, attention: str, pooling: str) -> Pretrained:
  """Returns a model of 400 classes on 32 frames; Ti has four heads where they are halved."""
  dims = SIZES[size]
  heads = 4 if size == 'Ti' and attention == 'factorised_dot_product' else dims.heads
  config = Model(
    attention=attention,  # type: ignore[arg-type]
    pooling=pooling,  # type: ignore[arg-type]
    layers=dims.layers,
    width=dims.width,
    mlp_dim=dims.mlp_dim,
    heads=heads,
  )
  clip, task = Clip(height=pixels, width=pixels), Task()
  vivit = ViViT(config, 400)
  rng = np.random.default_rng(0)

  def leaf(path, shape):
    center = 1.0 if path[-1].key == 'scale' else 0.0
    return (center + rng.normal(scale=0.02, size=shape.shape)).astype(np.float32)

  params = jax.tree_util.tree_map_with_path(leaf, abstract_params(vivit, clip))
  flat = traverse_util.flatten_dict(params, sep='/')
  source = Source(
    Path(size), 'random', 'video', flat, config, clip.frames, pixels, pixels, task, None,
    Preprocessing(stride=2), {},
  )  # fmt: skip
  return Pretrained(vivit, params, source)


def median(function: Callable[[], object]) -> float:
  """Returns the median seconds of some calls after a first one."""
  function()
  times = []
  for _ in range(ROUNDS):
    began = time.perf_counter()
    function()
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def line(size: str, pixels: int, attention: str, pooling: str) -> list[str]:
  """Returns one row of the table."""
  export = make_export(random_model(size, pixels, attention, pooling))
  with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / 'x.onnx'
    off = onnx_export.write(export, target)
    fixed = [
      onnx_export.write(dataclasses.replace(export, batch=batch), Path(folder) / f'{batch}.onnx')
      for batch in (1, 3)
    ]
    session = onnxruntime.InferenceSession(str(target), providers=['CPUExecutionProvider'])
    video = export.clips(1)
    forward, params = jax.jit(export.forward), export.pretrained.params
    seconds = (
      median(lambda: session.run(None, {'video': video})),
      median(lambda: forward(params, video).block_until_ready()),
    )
    size_mb = megabytes(target)
  differences = [f'{x:.1e}' for x in (*fixed, off)]
  name = f'{size} {attention}, {pooling}'
  return [name, *differences, f'{size_mb:.1f}', *(f'{s:.3f}' for s in seconds)]


def main() -> None:
  """Prints a row as soon as it is there, and then the table."""
  size, pixels = sys.argv[1], int(sys.argv[2])
  lines = []
  for attention in sys.argv[3:] or MODELS:
    for pooling in ('cls', 'mean') if attention in MODELS[:2] else ('mean',):  # see check_model
      lines.append(line(size, pixels, attention, pooling))
      print(lines[-1], flush=True)
  head = ('model', 'batch 1', 'batch 3', 'any', 'MB', 'onnxruntime s', 'JAX s')
  print(markdown(head, lines))


if __name__ == '__main__':
  main()
